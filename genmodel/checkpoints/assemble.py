"""From a configuration and tensors to a language model, whatever format they came in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from genmodel.checkpoints.files import load_into, own_copy, unchanged, without_weights
from genmodel.codec import EncodecModel, get_wrapped_compression_model
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from genmodel.lm.conditioners.build import EncoderSource, build_fuser, build_provider
from genmodel.lm.conditioners.t5 import T5Conditioner
from genmodel.lm.config import LMConfig
from genmodel.lm.lm import LMModel

_PREFIXES = ("emb.", "transformer.", "out_norm.", "linears.", "condition_provider.")
_CONDITIONER = "condition_provider.conditioners."
# Buffers and frozen networks that some melody checkpoints stored beside the projection; computed here, or not
# used.
_DROPPED = re.compile(re.escape(_CONDITIONER) + r"[^.]+\.(chroma|demucs|mert|eval_wavs|cache|resample)\b")


def assemble_lm(
    cfg: DictConfig,
    tensors: dict[str, Tensor],
    path: Path,
    encoders: EncoderSource,
    again: Callable[[], Mapping[str, Tensor]] | None = None,
) -> LMModel:
    """The language model that ``cfg`` describes with AudioCraft's tensors, float32, on the CPU, in eval mode.

    Tensors of other modules (old files carry the codec's) are left out. Raises CheckpointError, naming
    ``path``, where configuration and tensors do not belong together, and ModelNotFound for a text encoder
    that is not here. ``tensors`` is emptied. ``again`` reads the same once more: with it, the model can let
    go of weights that the engine has in its own form.
    """
    state = _spelled(tensors)
    tensors.clear()  # or they would lie beside the model's copies until all are made
    check = unchanged(path) if again is not None else None
    with reading(path):
        config = LMConfig.from_audiocraft(cfg, state)
        _check_sizes(config, state)
        with torch.random.fork_rng(devices=[]):  # modules draw start values; loading a model is not the place
            provider = build_provider(cfg, config.dim, encoders)
        for name, module in provider.conditioners.items():
            if isinstance(module, T5Conditioner):
                _prepare_t5(module, state, f"{_CONDITIONER}{name}.")
        fuser = build_fuser(cfg, provider)
        with without_weights():  # they come from the file
            lm = LMModel(config, provider, fuser, cfg=cfg)
    load_into(lm, state, path, "language model")
    if again is not None and check is not None:
        read = again

        def values() -> dict[str, Tensor]:
            check()
            parts = tuple(f"{part}." for part in LMModel.resting_parts)
            found = _spelled({name: value for name, value in read().items() if name.startswith(parts)})
            return {name: own_copy(value) for name, value in found.items()}

        lm.came_from(values)
    return lm.eval()


def _spelled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's tensors by its own names."""
    return {
        name.replace(".mha.", "."): value  # torch's own attention, wrapped, has one name more
        for name, value in tensors.items()
        if name.startswith(_PREFIXES) and not _DROPPED.match(name)
    }


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a stranger's configuration makes of the code that reads it into a CheckpointError naming
    the file.

    A value may be of any type wherever it stands, so anything from TypeError to OverflowError can come of it.
    """
    try:
        yield
    except GenModelError as error:
        # what is not here, or not installed, is no fault of this file's
        if isinstance(error, ModelNotFound) or error.field == "model" or str(path) in error.message:
            raise
        raise CheckpointError(
            f"{path}: {error.message}", field=error.field, value=error.value, allowed=error.allowed
        ) from error
    except torch.OutOfMemoryError:
        raise
    except (
        OmegaConfBaseException,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: the configuration cannot be used: {first}", field="xp.cfg") from error


def _check_sizes(config: LMConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse, before anything is allocated, a configuration that is not the tensors' own."""
    layers = {int(found[1]) for name in state if (found := re.match(r"transformer\.layers\.(\d+)\.", name))}
    codebooks = {int(found[1]) for name in state if (found := re.match(r"emb\.(\d+)\.weight$", name))}
    if not codebooks or not layers:
        raise CheckpointError("there are no tensors of a language model", field="best_state")
    table = tuple(state["emb.0.weight"].shape) if "emb.0.weight" in state else ()
    claims: tuple[tuple[str, object, object], ...] = (
        ("num_layers", config.num_layers, len(layers)),
        ("n_q", config.n_q, len(codebooks)),
        ("card + 1 and dim", (config.card + 1, config.dim), table),
    )
    for key, said, is_ in claims:
        if said != is_:
            raise CheckpointError(
                f"the configuration's {key} ({said}) is not that of the tensors ({is_})",
                field="transformer_lm",
            )


def _prepare_t5(module: T5Conditioner, state: dict[str, Tensor], prefix: str) -> None:
    """Check the encoder's width; keep stored encoder weights only where the model was trained with them."""
    projection = state.get(f"{prefix}output_proj.weight")
    if projection is not None:
        module.check_projection(projection)
    if not module.finetune:
        for name in [name for name in state if name.startswith(f"{prefix}t5.")]:
            del state[name]
        return
    shared, tied = f"{prefix}t5.shared.weight", f"{prefix}t5.encoder.embed_tokens.weight"
    if shared in state:  # one table under two names, stored once by some
        state.setdefault(tied, state[shared])


def check_pair(lm: LMModel, codec: EncodecModel, folder: Path) -> None:
    """CheckpointError unless the codec's tokens are the ones that the language model speaks.

    A codec with more codebooks than the model is limited to the model's.
    """
    if lm.card != codec.cardinality:
        raise CheckpointError(
            f"{folder}: the codec has {codec.cardinality} entries in a codebook, the language model speaks "
            f"of {lm.card}; they do not belong together",
            field="model",
        )
    chosen = codec.num_codebooks
    with reading(folder):
        try:
            wrapped = get_wrapped_compression_model(codec, lm.cfg).num_codebooks
        finally:
            codec.set_num_codebooks(chosen)  # looking must not change the codec
    wanted = lm.num_codebooks * chosen
    named = None if lm.cfg is None else lm.cfg.get("compression_model_n_q")
    if named is None and wrapped > lm.num_codebooks and not wanted % wrapped:
        # Codecs are published with more bits than a model speaks; its tokens are the first, coarse ones.
        codec.set_num_codebooks(wanted // wrapped)
        return
    if wrapped != lm.num_codebooks:
        raise CheckpointError(
            f"{folder}: the codec gives {wrapped} codebooks, the language model speaks of "
            f"{lm.num_codebooks}; they do not belong together",
            field="model",
        )
