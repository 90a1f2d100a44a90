"""What shape a token language model has, as one frozen value, and how AudioCraft's configuration says it.

``LMConfig.from_audiocraft`` reads the keys of ``transformer_lm`` and ``codebooks_pattern`` that change the
network; a value that this implementation does not compute is refused by its key, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from genmodel.errors import CheckpointError, GenModelError

PATTERNS = ("parallel", "delay", "unroll", "coarse_first", "musiclm")
ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class LMConfig:
    """A pre-norm decoder-only transformer over ``n_q`` codebooks of ``card`` tokens (token ``card`` is
    special).

    ``pattern`` and ``pattern_options`` name the order in which codebooks are written (``patterns.py``).
    ``cfg_coef`` is the guidance used when a caller names none. ``tie_embeddings`` (ours) makes each head the
    first ``card`` rows of its codebook's embedding; AudioCraft's models never tie. ``logit_scale`` (ours) is
    what each codebook's logits are multiplied with, one number each (none: 1): a temperature of its own (Guo
    et al. 2017, arXiv:1706.04599).
    """

    dim: int
    num_heads: int
    num_layers: int
    n_q: int
    card: int
    hidden_scale: float = 4
    pattern: str = "delay"
    pattern_options: Mapping[str, Any] = field(default_factory=dict)
    cross_attention: bool = True
    activation: str = "gelu"
    dropout: float = 0.0
    bias_ff: bool = False
    bias_attn: bool = False
    bias_proj: bool = False
    layer_scale: bool = False
    norm_eps: float = 1e-5
    max_period: float = 10_000.0
    positional_scale: float = 1.0
    cfg_coef: float = 3.0
    two_step_cfg: bool = False
    tie_embeddings: bool = False
    logit_scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.logit_scale and (len(self.logit_scale) != self.n_q or min(self.logit_scale) <= 0):
            raise GenModelError(
                "every codebook's logits need a scale above zero",
                code="E_MODEL",
                field="transformer_lm.logit_scale",
                value=self.logit_scale,
                allowed=f"{self.n_q} numbers above 0, or none",
            )
        for name in ("dim", "num_heads", "num_layers", "n_q", "card"):
            if getattr(self, name) < 1:
                raise GenModelError(
                    f"{name} must be positive", code="E_MODEL", field=name, value=getattr(self, name)
                )
        if self.dim % self.num_heads or self.dim % 2:
            raise GenModelError(
                "dim must be even and a multiple of num_heads",
                code="E_MODEL",
                field="dim",
                value=(self.dim, self.num_heads),
            )
        if self.pattern not in PATTERNS:
            raise GenModelError(
                "unknown codebook pattern",
                code="E_MODEL",
                field="codebooks_pattern.modeling",
                value=self.pattern,
                allowed=", ".join(PATTERNS),
            )
        if self.activation not in ACTIVATIONS:
            raise GenModelError(
                "unknown activation",
                code="E_MODEL",
                field="transformer_lm.activation",
                value=self.activation,
                allowed=", ".join(ACTIVATIONS),
            )

    @property
    def delays(self) -> tuple[int, ...]:
        """Steps by which each codebook of a delay pattern lags; zeros for parallel."""
        if self.pattern == "delay":
            return tuple(self.pattern_options.get("delays") or range(self.n_q))
        return (0,) * self.n_q

    @property
    def feedforward_dim(self) -> int:
        return int(self.hidden_scale * self.dim)

    @classmethod
    def from_audiocraft(cls, cfg: DictConfig, state: Mapping[str, Any] | None = None) -> LMConfig:
        """The network that AudioCraft would build from a training configuration.

        ``state``, the checkpoint's tensors by name, decides about biases where it is given: third-party
        fine-tunes carry biases that their configuration does not mention. Raises CheckpointError naming the
        key that is missing or asks for something else.
        """
        kind = OmegaConf.select(cfg, "lm_model", default="transformer_lm")
        if kind != "transformer_lm":
            raise CheckpointError(
                "this kind of language model is not supported",
                field="lm_model",
                value=kind,
                allowed="transformer_lm",
            )
        node = OmegaConf.select(cfg, "transformer_lm")
        if node is None:
            raise CheckpointError("the configuration has no transformer_lm section", field="transformer_lm")
        lm: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
        _refuse_unsupported(lm)
        missing = [key for key in ("dim", "num_heads", "num_layers", "n_q", "card") if lm.get(key) is None]
        if missing:
            raise CheckpointError(
                f"the configuration lacks transformer_lm.{missing[0]}", field=f"transformer_lm.{missing[0]}"
            )
        pattern, options = _pattern(cfg, lm)
        names = set(state or ())

        def has_bias(flag: str, ending: str) -> bool:
            return (
                any(name.endswith(ending) for name in names)
                if state is not None
                else bool(lm.get(flag, True))
            )

        cross = OmegaConf.select(cfg, "fuser.cross", default=None)
        return cls(
            dim=int(lm["dim"]),
            num_heads=int(lm["num_heads"]),
            num_layers=int(lm["num_layers"]),
            n_q=int(lm["n_q"]),
            card=int(lm["card"]),
            hidden_scale=lm.get("hidden_scale") or 4,
            pattern=pattern,
            pattern_options=options,
            cross_attention=bool(lm.get("cross_attention")) or bool(cross),
            activation=str(lm.get("activation") or "gelu"),
            dropout=float(lm.get("dropout") or 0.0),
            bias_ff=has_bias("bias_ff", "linear1.bias"),
            bias_attn=has_bias("bias_attn", "in_proj_bias"),
            bias_proj=any(name.startswith("linears.") and name.endswith(".bias") for name in names)
            if state is not None
            else bool(lm.get("bias_proj", True)),
            layer_scale=lm.get("layer_scale") is not None,
            max_period=float(lm.get("max_period") or 10_000.0),
            positional_scale=float(lm["positional_scale"] if lm.get("positional_scale") is not None else 1.0),
            cfg_coef=float(OmegaConf.select(cfg, "classifier_free_guidance.inference_coef", default=3.0)),
            two_step_cfg=bool(lm.get("two_step_cfg")),
            tie_embeddings=bool(lm.get("tie_embeddings")),
            logit_scale=_numbers(lm.get("logit_scale"), "transformer_lm.logit_scale"),
        )


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    """A list of a configuration; none where it is absent."""
    try:
        return tuple(float(one) for one in value or ())
    except (TypeError, ValueError):
        raise CheckpointError(
            "this must be a list of numbers", field=name, value=value, allowed="a list of numbers"
        ) from None


# key -> values under which the network is the one computed here; None stands for "absent"
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "positional_embedding": (None, "sin"),
    "norm": (None, "layer_norm"),
    "norm_first": (True,),
    "causal": (None, True),
    "kv_repeat": (None, 1),
    "past_context": (None,),
    "xpos": (None, False),
    "qk_layer_norm": (None, False),
    "qk_layer_norm_cross": (None, False),
}


def _refuse_unsupported(lm: Mapping[str, Any]) -> None:
    for key, allowed in _SUPPORTED.items():
        if lm.get(key) not in allowed:
            raise CheckpointError(
                "this model's network is of a kind that is not supported",
                field=f"transformer_lm.{key}",
                value=lm.get(key),
                allowed=" or ".join(str(value) for value in allowed if value is not None) or "null",
            )


def _pattern(cfg: DictConfig, lm: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The codebook pattern's name and options; with no name AudioCraft falls back on q_modeling, delays
    0…K-1.
    """
    name = OmegaConf.select(cfg, "codebooks_pattern.modeling", default=None)
    if name is None:
        return str(lm.get("q_modeling") or "delay"), {}
    options = OmegaConf.select(cfg, f"codebooks_pattern.{name}", default=None)
    chosen = dict(OmegaConf.to_container(options, resolve=True)) if options is not None else {}  # type: ignore[arg-type]
    return str(name), chosen
