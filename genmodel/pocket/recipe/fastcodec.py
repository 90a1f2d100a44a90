"""The codec as it is trained: EnCodec's arithmetic in a layout that is quick on CPUs and GPUs alike.

Parameters have AudioCraft's names and shapes, so a checkpoint is exported by copying. The forward pass
differs from the plain one only in how it is computed: signals are [B, C, 1, T] in channels-last memory, and
every strided or transposed convolution of kernel 2s and stride s is a kernel-2 convolution over blocks of s
samples, which is a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _holder(leaf: nn.Module, *names: str) -> nn.Module:
    """`leaf` under a chain of attribute names, as AudioCraft nests its convolutions."""
    for name in reversed(names):
        outer = nn.Module()
        outer.add_module(name, leaf)
        leaf = outer
    return leaf


class Conv(nn.Module):
    """Convolution of odd kernel, zeros around."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv: Any = _holder(nn.Conv1d(inputs, outputs, kernel), "conv")

    def forward(self, x: Tensor) -> Tensor:
        leaf: nn.Conv1d = self.conv.conv
        return F.conv2d(x, leaf.weight[:, :, None], leaf.bias, padding=(0, leaf.kernel_size[0] // 2))


class Down(nn.Module):
    """Convolution of kernel 2s and stride s; padding s in all, the odd sample on the left."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv: Any = _holder(nn.Conv1d(inputs, outputs, 2 * stride, stride), "conv")

    def forward(self, x: Tensor) -> Tensor:
        leaf: nn.Conv1d = self.conv.conv
        s = self.stride
        x = F.pad(x, (s - s // 2, s // 2))
        rows, channels, _, length = x.shape
        blocks = x.permute(0, 2, 3, 1).reshape(rows, 1, length // s, s * channels).permute(0, 3, 1, 2)
        kernel = leaf.weight.unflatten(2, (2, s)).permute(0, 3, 1, 2).flatten(1, 2)
        return F.conv2d(blocks, kernel[:, :, None], leaf.bias)


class Up(nn.Module):
    """Transposed convolution of kernel 2s and stride s, trimmed by s (the odd sample on the left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convtr: Any = _holder(nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride), "convtr")

    def forward(self, x: Tensor) -> Tensor:
        leaf: nn.ConvTranspose1d = self.convtr.convtr
        s = self.stride
        inputs, outputs, _ = leaf.weight.shape
        kernel = (
            leaf.weight.unflatten(2, (2, s)).flip(2).permute(3, 1, 0, 2).reshape(s * outputs, inputs, 1, 2)
        )
        bias = None if leaf.bias is None else leaf.bias.repeat(s)
        blocks = F.conv2d(x, kernel, bias, padding=(0, 1))
        rows, _, _, length = blocks.shape
        full = blocks.permute(0, 2, 3, 1).reshape(rows, 1, length * s, outputs)
        return full[:, :, s - s // 2 : length * s - s // 2].permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.block = nn.Sequential(nn.ELU(), Conv(channels, hidden, 3), nn.ELU(), Conv(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Recurrent(nn.Module):
    """LSTM with a skip around it."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        sequence = x[:, :, 0].transpose(1, 2)
        return (sequence + self.lstm(sequence)[0]).transpose(1, 2)[:, :, None]


class Codebook(nn.Module):
    """One stage's vectors with their moving averages (AudioCraft's buffer names)."""

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.zeros(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", torch.zeros(size, dimension))
        self.register_buffer("embed_avg", torch.zeros(size, dimension))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest entry for each of [N, D]."""
        return (2 * vectors @ self.embed.t() - self.embed.square().sum(1)).argmax(1)


class Quantizer(nn.Module):
    """Residual quantiser trained by moving averages (van den Oord et al. 2017, appendix A.1), dead entries
    re-seeded.
    """

    def __init__(self, codebooks: int, size: int, dimension: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay, self.size = decay, size
        self.vq: Any = nn.Module()
        layers = [_holder(Codebook(size, dimension), "_codebook") for _ in range(codebooks)]
        self.vq.add_module("layers", nn.ModuleList(layers))
        self.frozen = False

    @property
    def books(self) -> list[Codebook]:
        return [layer._codebook for layer in self.vq.layers]

    @property
    def ready(self) -> bool:
        return bool(self.books[0].inited.item())

    @torch.no_grad()
    def initialise(self, latents: Tensor, per_step: int, rounds: int = 12) -> None:
        """k-means of every stage on latents [N, D]; `per_step` is how many latents a training step brings."""
        residual = latents.float()
        for book in self.books:
            centres = residual[torch.randperm(len(residual), device=residual.device)[: self.size]].clone()
            if len(centres) < self.size:
                centres = centres[torch.arange(self.size, device=centres.device) % len(centres)]
            for _ in range(rounds):
                book.embed.copy_(centres)
                index = book.nearest(residual)
                count = torch.bincount(index, minlength=self.size).float()
                centres = (
                    torch.zeros_like(centres).index_add_(0, index, residual) / count.clamp(min=1)[:, None]
                )
                empty = (count == 0).nonzero()[:, 0]
                centres[empty] = residual[torch.randint(len(residual), (len(empty),), device=residual.device)]
            book.embed.copy_(centres)
            index = book.nearest(residual)
            count = torch.bincount(index, minlength=self.size).float()
            book.cluster_size.copy_((count * per_step / len(residual)).clamp(min=0.01))
            book.embed_avg.copy_(centres * book.cluster_size[:, None])
            book.inited.fill_(1)
            residual = residual - centres[index]

    @torch.no_grad()
    def _learn(self, book: Codebook, residual: Tensor, index: Tensor) -> None:
        count = torch.bincount(index, minlength=self.size).to(residual.dtype)
        total = torch.zeros_like(book.embed_avg).index_add_(0, index, residual)
        book.cluster_size.lerp_(count, 1 - self.decay)
        book.embed_avg.lerp_(total, 1 - self.decay)
        book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-5)[:, None])
        # An entry chosen less than once in about fifty steps is dead: it gets a latent of this batch, 24 a
        # step at most.
        dead = (book.cluster_size < 0.02).nonzero()[:, 0]
        if len(dead):
            dead = dead[torch.randperm(len(dead), device=dead.device)[:24]]
            fresh = residual[torch.randint(len(residual), (len(dead),), device=dead.device)]
            book.embed[dead] = fresh
            book.cluster_size[dead] = 0.1
            book.embed_avg[dead] = fresh * 0.1

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, D] float32 -> (quantised with a straight-through gradient, codes [N, K], commitment loss)."""
        residual, total, commitment = latents, torch.zeros_like(latents), latents.new_zeros(())
        codes = []
        for book in self.books:
            index = book.nearest(residual.detach())
            chosen = book.embed[index].clone()
            codes.append(index)
            commitment = commitment + F.mse_loss(residual, chosen)
            if self.training and not self.frozen:
                self._learn(book, residual.detach(), index)
            total = total + chosen
            residual = residual - chosen
        return latents + (total - latents).detach(), torch.stack(codes, 1), commitment / len(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [..., K] -> vectors [..., D]."""
        return torch.stack([book.embed[codes[..., k]] for k, book in enumerate(self.books)]).sum(0)


class FastCodec(nn.Module):
    """Encoder, quantiser and decoder; see the module's docstring."""

    def __init__(
        self,
        filters: int = 24,
        dimension: int = 64,
        ratios: Sequence[int] = (4, 4, 5, 8),
        lstm_layers: int = 1,
        codebooks: int = 4,
        codebook_size: int = 1024,
    ) -> None:
        super().__init__()
        self.settings = {
            "filters": filters, "dimension": dimension, "ratios": list(ratios), "lstm_layers": lstm_layers,
            "codebooks": codebooks, "codebook_size": codebook_size,
        }  # fmt: skip
        self.hop_samples, self.dimension = math.prod(ratios), dimension
        width = filters
        encoder: list[nn.Module] = [Conv(1, width, 7)]
        for ratio in reversed(ratios):
            encoder += [Residual(width), nn.ELU(), Down(width, 2 * width, ratio)]
            width *= 2
        encoder += [Recurrent(width, lstm_layers), nn.ELU(), Conv(width, dimension, 7)]
        decoder: list[nn.Module] = [Conv(dimension, width, 7), Recurrent(width, lstm_layers)]
        for ratio in ratios:
            decoder += [nn.ELU(), Up(width, width // 2, ratio), Residual(width // 2)]
            width //= 2
        decoder += [nn.ELU(), Conv(width, 1, 7)]
        self.encoder: Any = _holder(nn.Sequential(*encoder), "model")
        self.decoder: Any = _holder(nn.Sequential(*decoder), "model")
        self.quantizer = Quantizer(codebooks, codebook_size, dimension)
        self._initialise()

    def _initialise(self) -> None:
        """Weights that pass the signal on at its level, no biases.

        PyTorch's own start lets the biases of twenty layers drown the signal, and the encoder then learns
        nothing for
        hundreds of steps. A transposed convolution of kernel 2s and stride s has two taps per output sample.
        """
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose1d):
                nn.init.normal_(module.weight, std=(2 * module.in_channels) ** -0.5)
            elif isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0]) ** -0.5)
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        first: nn.Conv1d = self.encoder.model[0].conv.conv
        last: nn.Conv1d = self.decoder.model[-1].conv.conv
        with torch.no_grad():
            first.weight.mul_(5.0)
            last.weight.mul_(0.1)

    def latents(self, audio: Tensor) -> Tensor:
        """Audio [B, T] (T a multiple of the hop) -> latents [B, F, D]."""
        x = audio[:, None, None].contiguous(memory_format=torch.channels_last)
        return self.encoder.model(x)[:, :, 0].transpose(1, 2)

    def synthesise(self, latents: Tensor) -> Tensor:
        """Latents [B, F, D] -> audio [B, T]."""
        x = latents.transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)
        return self.decoder.model(x)[:, 0, 0]

    def forward(self, audio: Tensor, quantise: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Audio [B, T] -> (audio again, commitment loss, latents [B·F, D])."""
        latents = self.latents(audio)
        flat = latents.float().flatten(0, 1)
        if not quantise:
            return self.synthesise(latents), flat.new_zeros(()), flat
        with torch.autocast(audio.device.type, enabled=False):
            quantised, _, commitment = self.quantizer(flat)
        return self.synthesise(quantised.view(latents.shape)), commitment, flat

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, T] -> codes [B, K, F] int64."""
        latents = self.latents(audio).float()
        with torch.autocast(audio.device.type, enabled=False):
            codes = self.quantizer(latents.flatten(0, 1))[1]
        return codes.view(*latents.shape[:2], -1).transpose(1, 2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] -> audio [B, F·hop]."""
        return self.synthesise(self.quantizer.decode(codes.transpose(1, 2))).float()
