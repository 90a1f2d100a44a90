"""Matrix kernels for channels-last signals ``[B, T, C]``, with weights laid out once.

On a CPU in float32 the weights are prepacked for oneDNN, measured on 2 cores against the plain layout: 2.3x
for large matrices, 5x for few rows, and no repacking per call, which is what makes small chunks cheap.
Everywhere else (GPU, other dtypes, builds without oneDNN), and with ``packed=False``, the same formulas run
through plain torch. Kernels are read-only after construction: any number of threads may call them at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows that the packed layout is tuned for. Any count works; 32 was the best or equal best from 1 to 400 rows.
_TUNED_ROWS = 32
# Below this width a direct channels-last convolution beats gathering windows for a matrix product.
_DIRECT_CONV_BELOW = 128


def can_pack(weight: Tensor) -> bool:
    """Whether prepacked oneDNN kernels exist for this tensor's device and dtype."""
    ops = torch.ops.mkldnn
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(ops, "_linear_pointwise")
        and hasattr(ops, "_reorder_linear_weight")
    )


class Linear:
    """``x @ weight.T + bias (+ add)``; weight ``[out, in]``, x ``[..., in]`` contiguous."""

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool) -> None:
        weight = weight.detach().contiguous()
        self.bias = None if bias is None else bias.detach().contiguous()
        self.packed = packed
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TUNED_ROWS) if packed else weight

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        if self.packed:
            ops = torch.ops.mkldnn
            if add is None:
                return ops._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return ops._linear_pointwise.binary(x, add, self.weight, self.bias, "add")
        y = F.linear(x, self.weight, self.bias)
        return y if add is None else y + add


class Conv:
    """Convolution without padding over time: ``[B, T, in] -> [B, 1 + (T - reach) // stride, out]``."""

    def __init__(self, conv: nn.Conv1d, packed: bool) -> None:
        weight = conv.weight.detach()  # [out, in, kernel]
        n_out, n_in, kernel = weight.shape
        self.kernel, self.stride, self.dilation = kernel, conv.stride[0], conv.dilation[0]
        self.reach = (kernel - 1) * self.dilation + 1
        self.n_out = n_out
        self.direct = packed and kernel > 1 and self.stride == 1 and 1 < n_in < _DIRECT_CONV_BELOW
        if self.direct:
            self._bias = None if conv.bias is None else conv.bias.detach().contiguous()
            self._geometry = ([0, 0], [1, 1], [1, self.dilation], 1)
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight.unsqueeze(2), *self._geometry, [1, n_in, 1, 1024]
            )
        else:
            # Row of a gathered window: tap-major, channel-minor.
            self._linear = Linear(weight.permute(0, 2, 1).reshape(n_out, kernel * n_in), conv.bias, packed)

    def __call__(self, x: Tensor) -> Tensor:
        count = (x.shape[1] - self.reach) // self.stride + 1
        if self.direct:
            image = x.permute(0, 2, 1).unsqueeze(2)  # channels-last [B, C, 1, T]
            y = torch.ops.mkldnn._convolution_pointwise(
                image, self._weight, self._bias, *self._geometry, "none", [], ""
            )
            return y.squeeze(2).permute(0, 2, 1).contiguous()
        return self._linear(windows(x, self.kernel, self.stride, self.dilation, count))


def pointwise(conv: nn.Conv1d, packed: bool) -> Linear:
    """A convolution of kernel 1 as a matrix product."""
    return Linear(conv.weight.squeeze(2), conv.bias, packed)


def windows(x: Tensor, kernel: int, stride: int, dilation: int, count: int) -> Tensor:
    """Gather ``count`` windows: ``[B, T, C] -> [B, count, kernel * C]``, contiguous."""
    if kernel == 1 and stride == 1:
        return x.contiguous()
    x = x.contiguous()
    batch, time, width = x.shape
    shape = (batch, count, kernel, width)
    strides = (time * width, stride * width, dilation * width, 1)
    return x.as_strided(shape, strides, x.storage_offset()).reshape(batch, count, kernel * width)


class Upsample:
    """Transposed convolution of kernel ``2 * stride`` as one matrix product on pairs of neighbours.

    ``[B, n + 1, in] -> [B, n * stride, out]``: output block t is ``x[t-1] W[stride:] + x[t] W[:stride]``, and
    the blocks of a channels-last result are already in time order.
    """

    def __init__(self, conv: nn.ConvTranspose1d, packed: bool) -> None:
        weight = conv.weight.detach()  # [in, out, 2 * stride]
        n_in, n_out, kernel = weight.shape
        self.stride, self.n_out = kernel // 2, n_out
        halves = weight.view(n_in, n_out, 2, self.stride).permute(
            3, 1, 2, 0
        )  # [stride, out, (now, before), in]
        pairs = halves.flip(2).reshape(self.stride * n_out, 2 * n_in)
        bias = None if conv.bias is None else conv.bias.detach().repeat(self.stride)
        self._linear = Linear(pairs, bias, packed)

    def __call__(self, x: Tensor) -> Tensor:
        count = x.shape[1] - 1
        y = self._linear(windows(x, 2, 1, 1, count))
        return y.view(x.shape[0], count * self.stride, self.n_out)


class RecurrentStack:
    """The layers of an ``nn.LSTM``: ``[B, n, H]`` and ``(h, c)``, each ``[layers, B, H]``, to the same."""

    def __init__(self, lstm: nn.LSTM, packed: bool) -> None:
        self.layers, self.width = lstm.num_layers, lstm.hidden_size
        self.packed = packed
        self._lstm = lstm
        if packed:
            # Gates are stored i f g o; i f o g lets one call squash the three sigmoids.
            h = self.width
            order = torch.cat([torch.arange(2 * h), torch.arange(3 * h, 4 * h), torch.arange(2 * h, 3 * h)])
            self._input, self._hidden = [], []
            for i in range(self.layers):
                bias = getattr(lstm, f"bias_ih_l{i}").detach() + getattr(lstm, f"bias_hh_l{i}").detach()
                self._input.append(
                    Linear(getattr(lstm, f"weight_ih_l{i}").detach()[order], bias[order], True)
                )
                self._hidden.append(Linear(getattr(lstm, f"weight_hh_l{i}").detach()[order], None, True))

    def __call__(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        timely = x.transpose(0, 1).contiguous()  # [n, B, H]
        if not self.packed:
            y, state = self._lstm(timely, state)
            return y.transpose(0, 1), state
        split = 3 * self.width
        last_h, last_c = [], []
        for i in range(self.layers):
            gates_x = self._input[i](timely)
            hidden = self._hidden[i]
            h, c = state[0][i], state[1][i]
            out = torch.empty_like(timely)
            for t in range(timely.shape[0]):
                gates = hidden(h, gates_x[t])
                pass_in, keep, pass_out = gates[:, :split].sigmoid_().chunk(3, 1)
                c = torch.addcmul(keep * c, pass_in, gates[:, split:].tanh_())
                h = torch.mul(pass_out, c.tanh(), out=out[t])
            last_h.append(h.clone())
            last_c.append(c)
            timely = out
        return timely.transpose(0, 1), (torch.stack(last_h), torch.stack(last_c))
