"""What defines an EnCodec: two SEANet halves, a residual quantiser, rates. Plain values, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from genmodel.errors import CheckpointError

PAD_MODES = ("constant", "reflect", "replicate")
NORMS = ("none", "weight_norm")
#: Pointwise activations a checkpoint may name. Others (softmax, …) would not be exact in a stream.
ACTIVATIONS = tuple("ELU ReLU LeakyReLU GELU SiLU Tanh Sigmoid Softplus Softsign Hardtanh Identity".split())


def _refuse(field_name: str, value: Any, allowed: str) -> None:
    raise CheckpointError(
        f"The codec's configuration has a {field_name} that is not supported",
        field=field_name,
        value=value,
        allowed=allowed,
    )


def _need_int(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        _refuse(name, value, f"a whole number of at least {low}")


@dataclass(frozen=True)
class SEANetConfig:
    """One half (encoder or decoder) of the convolutional autoencoder, AudioCraft's names.

    ``ratios`` are in decoder order; the encoder applies them reversed. Residual unit j of a stage has
    dilation ``dilation_base**j`` and a hidden width of ``width // compress``; its second kernel is 1.
    """

    channels: int = 1
    dimension: int = 128
    n_filters: int = 32
    n_residual_layers: int = 1
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    activation: str = "ELU"
    activation_params: dict[str, Any] = field(default_factory=lambda: {"alpha": 1.0})
    norm: str = "weight_norm"
    disable_norm_outer_blocks: int = 0
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_base: int = 2
    causal: bool = False
    pad_mode: str = "constant"
    true_skip: bool = True
    compress: int = 2
    lstm: int = 2
    trim_right_ratio: float = 1.0
    final_activation: str | None = None
    final_activation_params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("channels", "dimension", "n_filters", "kernel_size", "last_kernel_size"):
            _need_int(f"seanet.{name}", getattr(self, name), 1)
        for name in ("residual_kernel_size", "dilation_base", "compress"):
            _need_int(f"seanet.{name}", getattr(self, name), 1)
        for name in ("n_residual_layers", "lstm", "disable_norm_outer_blocks"):
            _need_int(f"seanet.{name}", getattr(self, name), 0)
        if not isinstance(self.ratios, tuple) or not self.ratios:
            _refuse("seanet.ratios", self.ratios, "a list of at least one whole number")
        for ratio in self.ratios:
            _need_int("seanet.ratios", ratio, 1)
        if self.compress > self.n_filters:
            _refuse("seanet.compress", self.compress, f"1 to n_filters ({self.n_filters})")
        if self.pad_mode not in PAD_MODES:
            _refuse("seanet.pad_mode", self.pad_mode, ", ".join(PAD_MODES))
        if self.norm not in NORMS:
            _refuse("seanet.norm", self.norm, ", ".join(NORMS))
        for name in ("activation", "final_activation"):
            value = getattr(self, name)
            if not (name == "final_activation" and value is None) and value not in ACTIVATIONS:
                _refuse(f"seanet.{name}", value, ", ".join(ACTIVATIONS))
        if not 0.0 <= self.trim_right_ratio <= 1.0:
            _refuse("seanet.trim_right_ratio", self.trim_right_ratio, "0 to 1")
        if self.trim_right_ratio != 1.0 and not self.causal:
            _refuse("seanet.trim_right_ratio", self.trim_right_ratio, "1.0 unless the codec is causal")

    @property
    def hop_samples(self) -> int:
        return math.prod(self.ratios)


@dataclass(frozen=True)
class EncodecConfig:
    """A whole codec. ``n_q`` codebooks of ``bins`` entries; one frame is ``hop_samples`` samples."""

    sample_rate: int = 32000
    channels: int = 1
    n_q: int = 4
    bins: int = 2048
    encoder: SEANetConfig = field(default_factory=SEANetConfig)
    decoder: SEANetConfig = field(default_factory=SEANetConfig)
    renormalize: bool = False

    def __post_init__(self) -> None:
        _need_int("sample_rate", self.sample_rate, 1)
        _need_int("channels", self.channels, 1)
        _need_int("rvq.n_q", self.n_q, 1)
        _need_int("rvq.bins", self.bins, 1)
        if self.renormalize:
            # A per-clip loudness beside the tokens: a language model over tokens alone cannot carry it.
            _refuse(
                "encodec.renormalize", True, "false (codecs that send a loudness beside their tokens are not)"
            )
        for name in ("channels", "dimension"):
            pair = (getattr(self.encoder, name), getattr(self.decoder, name))
            if pair[0] != pair[1]:
                _refuse(f"seanet.{name}", pair, "equal values for encoder and decoder")
        if self.encoder.channels != self.channels:
            _refuse("seanet.channels", self.encoder.channels, f"the codec's channels ({self.channels})")
        if self.encoder.hop_samples != self.decoder.hop_samples:
            _refuse(
                "seanet.ratios",
                (self.encoder.ratios, self.decoder.ratios),
                "ratios with one product for both halves",
            )

    @property
    def hop_samples(self) -> int:
        return self.encoder.hop_samples

    @property
    def dimension(self) -> int:
        return self.encoder.dimension
