"""SEANet, the convolutional autoencoder of EnCodec, written plainly: whole signals, ``[B, C, T]``, no state.

This is the reference that the fast and the streaming paths (``stages.py``) are compared with, and what
training differentiates. Parameters carry AudioCraft's key names after weight normalisation has been folded
away. Source: Défossez et al., "High Fidelity Neural Audio Compression" (2022), section 3.1.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from genmodel.codec.config import SEANetConfig
from genmodel.errors import CheckpointError


def conv_paddings(kernel: int, stride: int, causal: bool) -> tuple[int, int]:
    """(left, right) padding that makes ``frames = ceil(samples / stride)``; an odd one goes left."""
    total = kernel - stride
    right = 0 if causal else total // 2
    return total - right, right


def extra_right_padding(length: int, stride: int) -> int:
    """Samples missing for the last window to be full, given ``kernel - stride`` samples of fixed padding."""
    return -length % stride


def pad_time(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis. ``reflect`` on inputs not longer than the padding: zeros are put on the right first,
    the longer signal is reflected, and as many samples are cut from its end (AudioCraft's rule)."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode)
    short = max(left, right) - x.shape[-1] + 1
    if short <= 0:
        return F.pad(x, (left, right), mode)
    padded = F.pad(F.pad(x, (0, short)), (left, right), mode)
    return padded[..., : padded.shape[-1] - short]


class _Holder(nn.Module):
    """One level of AudioCraft's module nesting (``conv.conv.weight``); exists for the key names only."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)


class PaddedConv(nn.Module):
    """Convolution with SEANet's padding. ``[B, in, T] -> [B, out, ceil(T / stride)]``."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = False,
        pad_mode: str = "constant",
    ) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation + 1
        if reach < stride:
            raise CheckpointError(
                "A convolution's kernel must be at least as long as its stride",
                field="kernel_size",
                value=kernel,
                allowed=f"at least {stride}",
            )
        self.conv = _Holder("conv", nn.Conv1d(n_in, n_out, kernel, stride=stride, dilation=dilation))
        self.left, self.right = conv_paddings(reach, stride, causal)
        self.pad_mode = pad_mode

    @property
    def weights(self) -> nn.Conv1d:
        return cast(nn.Conv1d, self.conv.get_submodule("conv"))

    def forward(self, x: Tensor) -> Tensor:
        conv = self.weights
        extra = extra_right_padding(x.shape[-1], conv.stride[0])
        return conv(pad_time(x, self.left, self.right + extra, self.pad_mode))


class TrimmedConvTranspose(nn.Module):
    """Transposed convolution of kernel ``2 * stride``, trimmed to ``[B, in, T] -> [B, out, T * stride]``."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, causal: bool, trim_right_ratio: float) -> None:
        super().__init__()
        self.convtr = _Holder("convtr", nn.ConvTranspose1d(n_in, n_out, 2 * stride, stride=stride))
        self.right = math.ceil(stride * trim_right_ratio) if causal else stride // 2
        self.left = stride - self.right

    @property
    def weights(self) -> nn.ConvTranspose1d:
        return cast(nn.ConvTranspose1d, self.convtr.get_submodule("convtr"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.weights(x)
        return y[..., self.left : y.shape[-1] - self.right]


class ResidualLSTM(nn.Module):
    """Unidirectional LSTM over time, its input added to its output. ``[B, C, T] -> [B, C, T]``."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)
        return (self.lstm(x)[0] + x).permute(1, 2, 0)


def _pads(config: SEANetConfig) -> dict[str, Any]:
    return {"causal": config.causal, "pad_mode": config.pad_mode}


class ResidualUnit(nn.Module):
    """``shortcut(x) + conv1(act(conv_k(act(x))))``; the shortcut is the identity or a 1x1 convolution."""

    def __init__(self, config: SEANetConfig, width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // config.compress
        pads = _pads(config)
        self.block = nn.Sequential(
            activation(config),
            PaddedConv(width, hidden, config.residual_kernel_size, dilation=dilation, **pads),
            activation(config),
            PaddedConv(hidden, width, 1, **pads),
        )
        self.shortcut: nn.Module = nn.Identity() if config.true_skip else PaddedConv(width, width, 1, **pads)

    @property
    def convs(self) -> tuple[PaddedConv, PaddedConv]:
        """The two convolutions of the block; the second has kernel 1."""
        return cast(PaddedConv, self.block[1]), cast(PaddedConv, self.block[3])

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


def activation(config: SEANetConfig, final: bool = False) -> nn.Module:
    """The configured pointwise activation; a wrong parameter is a ``CheckpointError``."""
    name = config.final_activation if final else config.activation
    params = config.final_activation_params if final else config.activation_params
    try:
        return getattr(nn, str(name))(**params)
    except TypeError as error:
        raise CheckpointError(
            f"The codec's activation {name} does not take these parameters",
            field="seanet.activation_params",
            value=dict(params),
        ) from error


def _residual_units(config: SEANetConfig, width: int) -> list[nn.Module]:
    return [ResidualUnit(config, width, config.dilation_base**j) for j in range(config.n_residual_layers)]


class SEANetEncoder(nn.Module):
    """``[B, channels, T] -> [B, dimension, ceil(T / hop)]``."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        pads = _pads(config)
        width = config.n_filters
        layers: list[nn.Module] = [PaddedConv(config.channels, width, config.kernel_size, **pads)]
        for ratio in reversed(config.ratios):
            layers += _residual_units(config, width)
            layers += [activation(config), PaddedConv(width, 2 * width, 2 * ratio, stride=ratio, **pads)]
            width *= 2
        if config.lstm:
            layers.append(ResidualLSTM(width, config.lstm))
        layers += [activation(config), PaddedConv(width, config.dimension, config.last_kernel_size, **pads)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class SEANetDecoder(nn.Module):
    """``[B, dimension, F] -> [B, channels, F * hop]``."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        pads = _pads(config)
        width = config.n_filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [PaddedConv(config.dimension, width, config.kernel_size, **pads)]
        if config.lstm:
            layers.append(ResidualLSTM(width, config.lstm))
        for ratio in config.ratios:
            up = TrimmedConvTranspose(
                width, width // 2, ratio, causal=config.causal, trim_right_ratio=config.trim_right_ratio
            )
            width //= 2
            layers += [activation(config), up, *_residual_units(config, width)]
        layers += [activation(config), PaddedConv(width, config.channels, config.last_kernel_size, **pads)]
        if config.final_activation is not None:
            layers.append(activation(config, final=True))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
