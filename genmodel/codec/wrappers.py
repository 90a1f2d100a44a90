"""Codecs made of a mono codec: interleaved stereo, and stems side by side.

Both code each channel (or stem) on its own and differ from a plain codec only in where the tokens go.
Decoding runs all channels of all rows as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genmodel.codec.checks import check_audio, check_codes
from genmodel.codec.encodec import CompressionModel, EncodecModel
from genmodel.errors import CheckpointError, GenModelError


class _Wrapper(CompressionModel):
    """What both wrappers share: a mono core, and codebooks k-major / part-minor."""

    def __init__(self, inner: EncodecModel, what: str, parts: int) -> None:
        super().__init__()
        if inner.channels != 1:
            raise CheckpointError(
                f"{what} is built from a mono codec",
                field="codec.channels",
                value=inner.channels,
                allowed="1",
            )
        self.inner = inner
        self._parts = parts
        self.training = inner.training

    @property
    def core(self) -> EncodecModel:
        return self.inner

    @property
    def num_codebooks(self) -> int:
        return self.inner.num_codebooks * self._parts

    @property
    def total_codebooks(self) -> int:
        return self.inner.total_codebooks * self._parts

    def set_num_codebooks(self, n: int) -> None:
        """``n`` counts the codebooks of each channel or stem, as ``compression_model_n_q`` does."""
        self.inner.set_num_codebooks(n)

    def check_codes(self, codes: Any, empty: bool = False) -> Tensor:
        return check_codes(codes, self.total_codebooks, self.cardinality, self._parts, empty)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        x = check_audio(x, self._parts, self._part_name)
        batch, parts, samples = x.shape
        return self._outer_codes(self.inner.encode_rows(x.reshape(batch * parts, 1, samples)), batch), None

    _part_name = "channels"

    def _outer_codes(self, codes: Tensor, batch: int) -> Tensor:
        """``[B * parts, k, F]`` -> ``[B, k * parts, F]``."""
        _, k, frames = codes.shape
        return (
            codes.view(batch, self._parts, k, frames).transpose(1, 2).reshape(batch, k * self._parts, frames)
        )

    def inner_codes(self, codes: Tensor) -> Tensor:
        batch, count, frames = codes.shape
        k = count // self._parts
        return (
            codes.view(batch, k, self._parts, frames).transpose(1, 2).reshape(batch * self._parts, k, frames)
        )


class InterleaveStereoCompressionModel(_Wrapper):
    """Stereo from a mono codec. Codebooks are ordered L0 R0 L1 R1 …

    With ``per_timestep`` the codebooks stay and time is interleaved instead (L, R, L, R …), which doubles the
    frame rate.
    """

    def __init__(self, model: EncodecModel, per_timestep: bool = False) -> None:
        super().__init__(model, "Interleaved stereo", 2)
        self.per_timestep = per_timestep
        if per_timestep and model.hop_samples % 2:
            raise CheckpointError(
                "Stereo interleaved in time needs an even hop",
                field="hop_samples",
                value=model.hop_samples,
                allowed="even numbers",
            )

    @property
    def channels(self) -> int:
        return 2

    @property
    def num_codebooks(self) -> int:
        return self.inner.num_codebooks * (1 if self.per_timestep else 2)

    @property
    def total_codebooks(self) -> int:
        return self.inner.total_codebooks * (1 if self.per_timestep else 2)

    @property
    def frames_per_step(self) -> int:
        return 2 if self.per_timestep else 1

    def check_codes(self, codes: Any, empty: bool = False) -> Tensor:
        if not self.per_timestep:
            return super().check_codes(codes, empty)
        codes = check_codes(codes, self.total_codebooks, self.cardinality, empty=empty)
        if not empty and codes.shape[2] % 2:
            raise GenModelError(
                "Stereo interleaved in time needs whole pairs of frames",
                field="codes.frames",
                value=codes.shape[2],
                allowed="even numbers",
            )
        return codes

    def _outer_codes(self, codes: Tensor, batch: int) -> Tensor:
        if not self.per_timestep:
            return super()._outer_codes(codes, batch)
        _, k, frames = codes.shape
        return codes.view(batch, 2, k, frames).permute(0, 2, 3, 1).reshape(batch, k, 2 * frames)

    def inner_codes(self, codes: Tensor) -> Tensor:
        if not self.per_timestep:
            return super().inner_codes(codes)
        batch, k, frames = codes.shape
        return codes.view(batch, k, frames // 2, 2).permute(0, 3, 1, 2).reshape(batch * 2, k, frames // 2)

    def outer_audio(self, audio: Tensor) -> Tensor:
        return audio.view(audio.shape[0] // 2, 1, 2, audio.shape[-1])


class StemsCompressionModel(_Wrapper):
    """One mono codec for several stems. Codebook ``k * S + s`` is codebook k of stem s.

    ``encode`` takes ``[B, S, T]``; ``decode`` gives the mix, the sum of the stems; ``inner`` codes a mix as
    such. With ``pan`` (one number per stem, -1 left to 1 right) stems come out in stereo, left ``1 - pan``
    and right ``1 + pan`` times the mono stem: the mean of both channels is the mono stem again, whatever the
    pan.
    """

    _part_name = "stems"

    def __init__(self, model: EncodecModel, names: tuple[str, ...], pan: Sequence[float] = ()) -> None:
        names = tuple(names)
        good = all(isinstance(n, str) and n.strip() for n in names)
        if not names or not good or len(set(names)) != len(names):
            raise CheckpointError(
                "A stems codec needs names for its stems",
                field="stems.names",
                value=names,
                allowed="different, non-empty names",
            )
        super().__init__(model, "A stems codec", len(names))
        self.stems = names
        self.pan = _checked_pan(pan, len(names))

    @property
    def channels(self) -> int:
        return 2 if self.pan else 1

    def outer_audio(self, audio: Tensor) -> Tensor:
        stems = audio.view(audio.shape[0] // len(self.stems), len(self.stems), 1, audio.shape[-1])
        if not self.pan:
            return stems
        right = torch.tensor(self.pan, dtype=audio.dtype, device=audio.device)
        return stems * torch.stack([1 - right, 1 + right], dim=1)[None, :, :, None]


def _checked_pan(pan: Sequence[float], stems: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in pan)
    except (TypeError, ValueError):
        values = (math.nan,)
    if values and (len(values) != stems or not all(-1.0 <= value <= 1.0 for value in values)):
        raise CheckpointError(
            "Each stem needs its place between left and right",
            field="stems.pan",
            value=list(pan),
            allowed=f"{stems} numbers from -1 to 1, or none",
        )
    return values


def _node(cfg: Any, name: str) -> Mapping[str, Any]:
    node = cfg.get(name) if isinstance(cfg, Mapping) or hasattr(cfg, "get") else None
    return {} if node is None else node


def get_wrapped_compression_model(codec: EncodecModel, cfg: Any) -> CompressionModel:
    """Wrap ``codec`` as a language model's configuration asks.

    ``cfg`` is a DictConfig (or None): ``interleave_stereo_codebooks.{use, per_timestep}``, ``stems.{use,
    names, pan}``, then ``compression_model_n_q`` codebooks per channel if it is set.
    """
    stereo, stems = _node(cfg, "interleave_stereo_codebooks"), _node(cfg, "stems")
    if stereo.get("use") and stems.get("use"):
        raise CheckpointError(
            "A model has either interleaved stereo or stems",
            field="stems.use",
            value=True,
            allowed="false with stereo",
        )
    model: CompressionModel = codec
    if stereo.get("use"):
        model = InterleaveStereoCompressionModel(codec, per_timestep=bool(stereo.get("per_timestep", False)))
    elif stems.get("use"):
        model = StemsCompressionModel(codec, tuple(stems.get("names") or ()), tuple(stems.get("pan") or ()))
    n_q = cfg.get("compression_model_n_q") if cfg is not None else None
    if n_q is not None:
        model.set_num_codebooks(n_q)
    return model
