"""The network whose layers run in the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genmodel.engine.caches import Caches, Group
from genmodel.engine.kernels import PRECISIONS
from genmodel.engine.native.batches import Line, Mix, make_batch, mixes_of
from genmodel.engine.native.caches import NativeCaches, native_lines
from genmodel.engine.native.draws import Draws, drawable
from genmodel.engine.native.library import (
    FORMS,
    CInputs,
    CLayer,
    CLinear,
    CModel,
    CNorm,
    Scratch,
    ints,
    kernels,
)
from genmodel.engine.native.weights import Arena, NativeLinear, NativeNorm, c_array, weight_count
from genmodel.engine.network import Layer, Network, Norm
from genmodel.engine.prefilling import Slices

if TYPE_CHECKING:
    from genmodel.engine.conditions import Stream
    from genmodel.engine.drawing import Draw
    from genmodel.lm.lm import LMModel

MOST_BYTES_A_HEAD = 1024  # of a head's dimensions: so many products of 14 by 8 bits fit into 32
PREFILL_ROWS = 128  # rows of one call: enough to be limited by arithmetic, few enough to stay in the cache


class NativeNetwork(Network):
    """An ``LMModel`` whose weights, of layers and heads, are int8, bfloat16 or float32 (``precision``); what
    is computed with them is float32. ``path`` as ``Kernels`` (None: the best that runs here).

    ``byte_caches``: with int8, whether keys and values of self-attention are kept as eight bits with a scale
    for each head and place, else as bfloat16; with the others they are of the weights' precision. ``fused``:
    whether embedding and drawing are left to the kernels too, which changes no bits.

    Memory: the layers' and heads' weights in that precision, beside the embeddings.
    """

    def __init__(
        self,
        lm: LMModel,
        path: str | None = None,
        own_threads: bool = False,
        byte_caches: bool = True,
        precision: str = "int8",
    ) -> None:
        """Raises NativeAbsentError where the kernels cannot be had."""
        fits = lm.config.dim // lm.config.num_heads <= MOST_BYTES_A_HEAD
        self.byte_caches = byte_caches = byte_caches and precision == "int8" and fits
        self.kernels = kernels(path, own_threads)
        self._scratch = Scratch()
        config = lm.config
        dim, inner = config.dim, config.feedforward_dim
        layer = weight_count(3 * dim, dim) + weight_count(dim, dim)
        layer += weight_count(inner, dim) + weight_count(dim, inner)
        if config.cross_attention:
            layer += 2 * weight_count(dim, dim) + weight_count(2 * dim, dim)
        head = weight_count(config.n_q * config.card, dim)
        weights = torch.int8 if precision == "int8" else PRECISIONS[precision]
        self._arena = Arena(config.num_layers * layer + head, weights)
        super().__init__(lm, precision)
        self.dtype, self.lean = torch.float32, False  # of what goes in and out of linears; a step is one call
        self.cache_dtype = torch.float32 if precision == "float32" else torch.bfloat16
        kept = "bytes" if byte_caches else str(self.cache_dtype).removeprefix("torch.")
        self.kernels_version = f"{self.kernels.version} {kept}"
        self.fused = True
        self.embedding = self.embedding.contiguous()
        self._draws = Draws(self.kernels, self._scratch, config.card)
        self._norms: list[NativeNorm] = []
        self._layers = c_array([self._c_layer(made) for made in self.layers], CLayer)
        self._model = CModel(
            self._layers, self._c_norm(self.out_norm), len(self.layers), dim, self.heads, self.head_dim,
            inner, int(config.activation == "relu"), FORMS[weights], self.scale,
        )  # fmt: skip

        read = [self.head, *(linear for layer in self.layers for linear in self._of_a_step(layer))]
        # bytes of weights that one step reads
        self.step_bytes = sum(one.size_bytes for one in read if isinstance(one, NativeLinear))

    @staticmethod
    def _of_a_step(layer: Layer) -> tuple[Any, ...]:
        """A layer's linears but for the source's keys and values, which are made once a window."""
        return layer.qkv, layer.out, layer.cross_q, layer.cross_out, layer.up, layer.down

    def _linear(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Any:
        return NativeLinear(self.kernels, self._scratch, self._arena, weight, bias)

    def _c_norm(self, norm: Norm | None) -> CNorm:
        if norm is None:
            return CNorm()
        self._norms.append(NativeNorm(*norm))
        return self._norms[-1].c

    def _c_layer(self, layer: Layer) -> CLayer:
        def form(linear: Any) -> CLinear:
            return CLinear() if linear is None else linear.c

        return CLayer(
            self._c_norm(layer.norm1), self._c_norm(layer.norm_cross), self._c_norm(layer.norm2),
            *(form(linear) for linear in self._of_a_step(layer)), int(layer.cross_q is not None),
        )  # fmt: skip

    def caches(self) -> Caches:
        return NativeCaches(self, self.byte_caches)

    def _run(self, caches: Caches, lines: Sequence[Line], inputs: CInputs, mixes: Sequence[Mix]) -> Tensor:
        if not isinstance(caches, NativeCaches):
            raise TypeError("these caches are another network's")
        mixed = torch.empty(len(mixes), self.config.dim)
        self.kernels.forward(
            self._model, caches.c_form(caches.own), caches.c_form(caches.cross), make_batch(lines, mixes),
            inputs, mixed, self._scratch, self.step_bytes,
        )  # fmt: skip
        return mixed

    def step(self, caches: Caches, group: Group, x: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
        x = x.contiguous()
        return self._run(caches, native_lines(group), CInputs(x.data_ptr()), mixes_of(weights))

    def feed(
        self,
        caches: Caches,
        group: Group,
        tokens: Tensor,
        added: Tensor | None,
        weights: Sequence[Sequence[float]],
    ) -> Tensor:
        """As the base class, embedded by the kernels: the same bits."""
        if not self.fused:
            return super().feed(caches, group, tokens, added, weights)
        lines = native_lines(group)
        tokens = tokens.contiguous()
        added = None if added is None else added.float().contiguous()
        positions = self.positions(group.capacity)
        owners = [i for i, count in enumerate(group.rows_of_session) for _ in range(count)]
        inputs = CInputs(
            None, tokens.data_ptr(), self.embedding.data_ptr(), positions.data_ptr(),
            None if added is None else added.data_ptr(), ints(owners), ints([line.place for line in lines]),
            self.config.n_q, self.config.card + 1,
        )  # fmt: skip
        return self._run(caches, lines, inputs, mixes_of(weights))

    def choose(self, logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """As the base class, by the kernels where they can: the same tokens."""
        if self.fused and all(drawable(draw) for draw in draws):
            tokens, finite = self._draws(logits, draws)
            if bool(finite.all()):
                return tokens, finite
        return super().choose(logits, draws)

    def prefill(
        self,
        caches: Caches,
        slot: int,
        streams: Sequence[Stream],
        inputs: Sequence[Tensor],
        rows: int | None = None,
    ) -> Slices:
        """As the base class, in blocks of rows through the kernels of ``step``: the same bits, whatever
        ``rows``.
        """
        if not isinstance(caches, NativeCaches):
            raise TypeError("these caches are another network's")
        sources = [stream.cross for stream in streams if stream.cross is not None]
        for number, layer in enumerate(self.layers):
            if layer.cross_kv is not None:
                for heard, source in enumerate(sources):
                    caches.fill_cross(number, slot, heard, layer, source)
        block = max(1, min(PREFILL_ROWS, rows or PREFILL_ROWS) // len(streams))
        longest = max(len(x) for x in inputs)
        mixed = torch.empty(0)
        for after in reversed(range(0, longest, block)):  # so many places come after this block
            lines: list[Line] = []
            parts, last = [], []
            for c, x in enumerate(inputs):
                end = len(x) - after
                begin = max(0, end - block)
                if end <= 0:
                    continue
                lines += caches.lines(slot, c, range(begin, end))
                parts.append(x[begin:end])
                last.append((len(lines) - 1, streams[c].weight))
            fed = torch.cat(parts)
            mixed = self._run(caches, lines, CInputs(fed.data_ptr()), [last] if after == 0 else [])
            if after and rows is not None:
                yield
        return mixed[0]
