"""The codec's face, and EnCodec behind it.

Threading model: a codec is read-only once it is loaded. ``encode``, ``decode`` and any number of streams may
run at once from several threads; what changes from call to call lives in the caller's ``CodecStream``. Moving
the model or writing to its weights must not overlap with use; the packed kernels are rebuilt by the next call
that needs them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genmodel.codec.checks import check_audio, check_codes
from genmodel.codec.config import EncodecConfig
from genmodel.codec.rvq import ResidualVectorQuantizer
from genmodel.codec.seanet import SEANetDecoder, SEANetEncoder
from genmodel.codec.stages import Chain
from genmodel.codec.stream import CodecStream
from genmodel.errors import GenModelError

Kernels = Literal["auto", "fast", "plain", "reference"]

# Blocks of one second bound memory and keep a 64-channel, 32 kHz activation (8 MiB) near the caches.
_BLOCK_FRAMES = 50
# Encoders narrower than this run the reference convolutions: they are cheap, and rounding is then that of the
# published implementations, so that a latent half way between two entries falls to the same side.
_FAST_ENCODER_FROM = 16


class CompressionModel(ABC, nn.Module):
    """Audio ``[B, C, T]`` to tokens ``[B, K, F]`` (int64) and back, AudioCraft's names."""

    #: Names of the parts that ``decode_stems`` gives.
    stems: tuple[str, ...] = ("mix",)

    @property
    @abstractmethod
    def core(self) -> EncodecModel:
        """The codec proper, under all wrappers."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Audio channels per stem."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Codebooks in use: what ``encode`` gives."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Codebooks that exist: what ``decode`` takes at most."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first ``n`` codebooks (of each coded channel) from here on."""

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        """``[B, C, T]`` -> codes ``[B, K, ceil(T / hop)]`` and no scale."""

    @abstractmethod
    def inner_codes(self, codes: Tensor) -> Tensor:
        """Codes ``[B, K, F]``, checked by the caller, as rows for the core: ``[B * m, k, f]``."""

    @abstractmethod
    def outer_audio(self, audio: Tensor) -> Tensor:
        """Audio of the core's rows ``[B * m, c, n]`` as stems ``[B, S, C, n]``."""

    @abstractmethod
    def check_codes(self, codes: Any, empty: bool = False) -> Tensor:
        """The codes as int64, or a ``GenModelError`` naming what is wrong with them."""

    @property
    def frames_per_step(self) -> int:
        """Token frames that make one frame of the core (2 when stereo is interleaved in time)."""
        return 1

    @property
    def sample_rate(self) -> int:
        return self.core.config.sample_rate

    @property
    def hop_samples(self) -> int:
        """Samples per token frame."""
        return self.core.config.hop_samples // self.frames_per_step

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_samples

    @property
    def cardinality(self) -> int:
        return self.core.config.bins

    @property
    def lookahead_frames(self) -> int:
        """How many token frames a stream needs beyond a frame before that frame's audio is final."""
        return self.core.core_lookahead_frames * self.frames_per_step

    def decode_stems(self, codes: Tensor) -> Tensor:
        """``[B, K, F]`` -> ``[B, S, C, F * hop]``."""
        codes = self.check_codes(codes)
        return self.outer_audio(self.core.decode_rows(self.inner_codes(codes)))

    def decode(self, codes: Tensor, scale: None = None) -> Tensor:
        """``[B, K, F]`` -> ``[B, C, F * hop]``, stems summed; not clamped."""
        if scale is not None:
            raise GenModelError(
                "This codec's tokens carry no loudness",
                field="scale",
                value=type(scale).__name__,
                allowed="None",
            )
        stems = self.decode_stems(codes)
        return stems[:, 0] if stems.shape[1] == 1 else stems.sum(1)

    @torch.no_grad()
    def decode_latent(self, codes: Tensor) -> Tensor:
        """The quantised latents that the decoder starts from, ``[B, D, F]``; one row per coded channel."""
        codes = self.inner_codes(self.check_codes(codes))
        return self.core.quantizer.decode(codes).permute(0, 2, 1)

    def stream(self, rows: int) -> CodecStream:
        """A decode that takes tokens in pieces; ``rows`` takes advance together."""
        return CodecStream(self, rows)

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode: ``[B, C, T]`` -> ``[B, C, T]``."""
        return self.decode(self.encode(x)[0])[..., : x.shape[-1]]


class EncodecModel(CompressionModel):
    """SEANet encoder and decoder around a residual quantiser.

    ``kernels``: "auto" (packed channels-last kernels for decoding and for encoders of useful width), "fast"
    (always), "plain" (the same formulas without packing, as on a GPU), "reference" (whole-signal
    convolutions, the slow twin).
    """

    def __init__(self, config: EncodecConfig, kernels: Kernels = "auto") -> None:
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.encoder = SEANetEncoder(config.encoder)
        self.decoder = SEANetDecoder(config.decoder)
        self.quantizer = ResidualVectorQuantizer(config.n_q, config.bins, config.dimension)
        self._num_codebooks = config.n_q
        self._chains: dict[tuple[str, bool | None], tuple[tuple[Any, ...], Chain]] = {}
        self._chains_lock = threading.Lock()
        self.eval()

    def __getstate__(self) -> dict[str, Any]:
        # Packed kernels are opaque and a lock cannot be copied; a copy makes its own.
        state = dict(self.__dict__)
        state.pop("_chains"), state.pop("_chains_lock")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._chains, self._chains_lock = {}, threading.Lock()

    @property
    def core(self) -> EncodecModel:
        return self

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def num_codebooks(self) -> int:
        return self._num_codebooks

    @property
    def total_codebooks(self) -> int:
        return self.config.n_q

    def set_num_codebooks(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= self.config.n_q:
            raise GenModelError(
                "The codec does not have that many codebooks",
                field="num_codebooks",
                value=n,
                allowed=f"1 to {self.config.n_q}",
            )
        self._num_codebooks = n

    def inner_codes(self, codes: Tensor) -> Tensor:
        return codes

    def outer_audio(self, audio: Tensor) -> Tensor:
        return audio[:, None]

    def check_codes(self, codes: Any, empty: bool = False) -> Tensor:
        return check_codes(codes, self.config.n_q, self.config.bins, empty=empty)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        x = check_audio(x, self.channels)
        return self.encode_rows(x), None

    @torch.no_grad()
    def encode_rows(self, x: Tensor) -> Tensor:
        """``encode`` without the checks, for wrappers that made them."""
        weight = next(self.encoder.parameters())
        x = x.to(device=weight.device, dtype=weight.dtype)
        narrow = self.config.encoder.n_filters < _FAST_ENCODER_FROM
        if self.kernels == "reference" or (self.kernels == "auto" and narrow):
            latent = self.encoder(x)
        else:
            block = _BLOCK_FRAMES * self.config.hop_samples
            latent = self.chain("encoder").run(x.transpose(1, 2), block).transpose(1, 2)
        return self.quantizer.encode(latent, self._num_codebooks)

    @torch.no_grad()
    def decode_rows(self, codes: Tensor) -> Tensor:
        """``decode`` without the checks: ``[B, k, F]`` -> ``[B, C, F * hop]``."""
        latent = self.quantizer.decode(codes.to(self.quantizer.codebooks[0].device))
        if self.kernels == "reference":
            return self.decoder(latent.transpose(1, 2))
        return self.chain("decoder").run(latent, _BLOCK_FRAMES).transpose(1, 2).contiguous()

    def chain(self, half: Literal["encoder", "decoder"]) -> Chain:
        """The streaming form of one half, made on first use and again after its weights have changed."""
        module = getattr(self, half)
        packed = False if self.kernels in ("plain", "reference") else None
        key = tuple((p.data_ptr(), p._version, p.device, p.dtype) for p in module.parameters())
        with self._chains_lock:
            made = self._chains.get((half, packed))
            if made is None or made[0] != key:
                side = getattr(self.config, half)
                width = side.channels if half == "encoder" else side.dimension
                made = self._chains[half, packed] = (key, Chain(module.model, width, packed))
            return made[1]

    @property
    def core_lookahead_frames(self) -> int:
        """The largest number of frames that a stream can have received and not yet played.

        Counted with the chain's own arithmetic. Reflecting, causal codecs wait longest at the start, where
        the padding mirrors what is to come.
        """
        chain, hop = self.chain("decoder"), self.config.hop_samples
        longest = steady = frames = 0
        # The wait settles after every stage has begun; it never grows again once it has stood still for long.
        while steady < 64:
            frames += 1
            wait = frames - chain.emitted(frames) // hop
            steady = steady + 1 if wait <= longest else 0
            longest = max(longest, wait)
        return longest
