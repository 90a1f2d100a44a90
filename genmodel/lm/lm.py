"""The token language model: embeddings, transformer, one head per codebook.

Forward only, teacher-forced and trainable; making tokens fast is the engine's work (``generate`` drives it).
Parameter names are AudioCraft's, so that its state dicts load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from genmodel.errors import GenModelError
from genmodel.lm.conditioning import ConditioningAttributes, ConditioningProvider
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser, hold_frames
from genmodel.lm.patterns import Pattern, PatternProvider, get_pattern_provider
from genmodel.lm.resting import RestingModule
from genmodel.lm.transformer import Transformer, fill_null_mask, init_weights

ConditionTensors = Mapping[str, tuple[Tensor, Tensor]]


class LMOutput(NamedTuple):
    """Logits [B, K, T, card] for codes, NaN where the pattern predicts nothing, and their mask [B, K, T]."""

    logits: Tensor
    mask: Tensor


class LMModel(RestingModule):
    """An autoregressive model of K interleaved codebooks, conditioned through provider and fuser.

    ``cfg`` is the checkpoint's training configuration (None for a model built in code); ``cfg_coef`` the
    guidance used when the caller names none.
    """

    resting_parts = ("transformer", "linears")

    def __init__(
        self,
        config: LMConfig,
        condition_provider: ConditioningProvider | None = None,
        fuser: ConditionFuser | None = None,
        pattern_provider: PatternProvider | None = None,
        cfg: DictConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.cfg = cfg
        self.condition_provider = condition_provider or ConditioningProvider({})
        self.fuser = fuser or ConditionFuser({})
        self.pattern_provider = pattern_provider or get_pattern_provider(
            config.pattern, config.n_q, config.pattern_options
        )
        self.dim, self.card, self.n_q = config.dim, config.card, config.n_q
        self.prepared: dict[str, Any] = {}  # the engine's own form of the weights (engine/network.py)
        self.cfg_coef = config.cfg_coef
        self.two_step_cfg = config.two_step_cfg
        if self.fuser.has_cross and not config.cross_attention:
            raise GenModelError(
                "conditions are fused by cross-attention, which this network does not have",
                code="E_MODEL",
                field="fuser.cross",
            )
        self.emb = nn.ModuleList(nn.Embedding(self.card + 1, self.dim) for _ in range(self.n_q))
        self.transformer = Transformer(config)
        self.out_norm = nn.LayerNorm(self.dim, eps=config.norm_eps)
        self.linears = nn.ModuleList(
            nn.Linear(self.dim, self.card, bias=config.bias_proj)
            for _ in range(0 if config.tie_embeddings else self.n_q)
        )
        for part in (self.emb, self.transformer, self.linears):
            init_weights(part, config)

    @property
    def num_codebooks(self) -> int:
        return self.n_q

    @property
    def special_token_id(self) -> int:
        return self.card

    @property
    def device(self) -> torch.device:
        return next(self.emb.parameters()).device

    @property
    def parameter_count(self) -> int:
        """How many numbers the model learnt; wakes nothing."""
        every = [value for child in self.modules() for value in child._parameters.values()]
        return sum({id(value): value.numel() for value in every if value is not None}.values())

    def head(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Weight [card, D] and bias of codebook k's head, times its logits' scale."""
        if self.config.tie_embeddings:
            table: Tensor = self.emb[k].weight  # type: ignore[assignment]
            weight, bias = table[: self.card], None
        else:
            linear: nn.Linear = self.linears[k]  # type: ignore[assignment]
            weight, bias = linear.weight, linear.bias
        scale = self.config.logit_scale[k] if self.config.logit_scale else 1.0
        if scale == 1.0:
            return weight, bias
        return weight * scale, None if bias is None else bias * scale

    def encode_conditions(self, conditions: Sequence[ConditioningAttributes]) -> ConditionTensors:
        """Tokenize and embed the conditions of each row together."""
        return self.condition_provider(self.condition_provider.tokenize(list(conditions)))

    def forward(
        self,
        sequence: Tensor,
        conditions: Sequence[ConditioningAttributes] | None = None,
        condition_tensors: ConditionTensors | None = None,
        frame_bias: Tensor | None = None,
    ) -> Tensor:
        """Logits float [B, K, S, card] of an interleaved sequence int64 [B, K, S]; those at step s predict
        step s+1.

        ``condition_tensors``: what ``encode_conditions`` gave, instead of ``conditions``. ``frame_bias`` [B,
        F, D] is added to the input of step s as the value of frame s, and holds its last value beyond its
        end.
        """
        if sequence.dim() != 3 or sequence.shape[1] != self.n_q or not sequence.shape[2]:
            raise GenModelError(
                "the sequence does not fit this model",
                field="sequence",
                value=tuple(sequence.shape),
                allowed=f"[batch, {self.n_q}, steps]",
            )
        if condition_tensors is None:
            condition_tensors = self.encode_conditions(conditions) if conditions else {}
        steps = sequence.shape[2]
        x = self.emb[0](sequence[:, 0])
        for k in range(1, self.n_q):
            x = x + self.emb[k](sequence[:, k])
        if frame_bias is not None:
            x = x + hold_frames(frame_bias, steps).to(x.dtype)
        bias = self.fuser.bias(condition_tensors, steps)
        if bias is not None:
            x = x + bias.to(x.dtype)
        visible = None
        prefix = self.fuser.prefix(visible_prefix(condition_tensors, self.fuser))
        if prefix is not None:
            values, seen = align_prefix(*prefix)
            x = torch.cat([values.to(x.dtype), x], dim=1)
            visible = torch.cat([seen, seen.new_ones(seen.shape[0], steps)], dim=1)
        source, source_mask = self.fuser.cross(condition_tensors) or (None, None)
        y = self.out_norm(self.transformer(x, source, source_mask, visible)[:, -steps:])
        return torch.stack([F.linear(y, *self.head(k)) for k in range(self.n_q)], dim=1)

    def compute_predictions(
        self,
        codes: Tensor,
        conditions: Sequence[ConditioningAttributes],
        condition_tensors: ConditionTensors | None = None,
        frame_bias: Tensor | None = None,
    ) -> LMOutput:
        """Logits of codes int64 [B, K, T] under the model's pattern, for a loss."""
        pattern = self.pattern_provider.get_pattern(codes.shape[-1])
        sequence, _, _ = pattern.build_pattern_sequence(
            codes, self.special_token_id, keep_only_valid_steps=True
        )
        logits = self(sequence, conditions, condition_tensors, frame_bias)
        reverted, _, mask = pattern.revert_pattern_logits(
            logits.permute(0, 3, 1, 2), float("nan"), keep_only_valid_steps=True
        )
        return LMOutput(reverted.permute(0, 2, 3, 1), mask[None].expand(codes.shape[0], -1, -1))

    def pattern(self, frames: int) -> Pattern:
        """The codebook pattern of a window of ``frames`` frames."""
        return self.pattern_provider.get_pattern(frames)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor | None = None,
        conditions: Sequence[ConditioningAttributes] = (),
        num_samples: int | None = None,
        max_gen_len: int = 256,
        use_sampling: bool = True,
        temp: float = 1.0,
        top_k: int = 250,
        top_p: float = 0.0,
        cfg_coef: float | None = None,
        cfg_coef_beta: float | None = None,
        two_step_cfg: bool | None = None,
        remove_prompts: bool = False,
        check: bool = False,
        callback: Callable[[int, int], None] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Codes int64 [B, K, max_gen_len], the prompt [B, K, P] at their head unless ``remove_prompts``.

        AudioCraft's arguments, plus a ``seed`` (drawn from torch's global generator where none is given; rows
        are variations of it). ``check`` is accepted for its sake: shapes are always checked here.
        """
        from genmodel.engine.windows import generate_window  # the engine imports this module

        return generate_window(
            self,
            prompt,
            list(conditions),
            num_samples,
            max_gen_len,
            {
                "use_sampling": use_sampling,
                "temperature": temp,
                "top_k": top_k,
                "top_p": top_p,
                "cfg_coef": cfg_coef,
                "cfg_coef_beta": cfg_coef_beta,
                "two_step_cfg": self.two_step_cfg if two_step_cfg is None else two_step_cfg,
            },
            remove_prompts,
            callback,
            seed,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "prepared": {}}  # opaque to copying, and made again when needed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # AudioCraft's non-custom attention wraps torch's own module and so has one name more
        for key in [key for key in state_dict if key.startswith(prefix) and ".mha." in key]:
            state_dict[key.replace(".mha.", ".")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def visible_prefix(tensors: ConditionTensors, fuser: ConditionFuser) -> ConditionTensors:
    """The same tensors, where each prepended condition that a row lacks is visible: as many zero vectors as
    the others have, which is what AudioCraft's unconditional half sees.
    """
    names = fuser.fuse2cond["prepend"]
    return {
        name: (value, fill_null_mask(mask) if name in names else mask)
        for name, (value, mask) in tensors.items()
    }


def align_prefix(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's padding to the front, so that a shorter prefix ends where the sequence begins.

    values [B, P, D], mask bool [B, P]; returns the values and which of them are visible.
    """
    order = torch.argsort(mask.int(), dim=1, stable=True)
    return values.gather(1, order[..., None].expand_as(values)), mask.gather(1, order)
