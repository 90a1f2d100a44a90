"""Text encoders: found on this machine by the name a checkpoint gives, read without running anything.

Needs ``transformers`` and ``sentencepiece`` (the extra ``musicgen``), imported when the first encoder is
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genmodel.checkpoints.files import has_weights, load_into, read_json, read_weights, without_weights
from genmodel.checkpoints.paths import places, repo_id
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from genmodel.lm.conditioners.t5 import T5_DIMS, TextEncoder

INSTALL = "pip install 'segue-daw[musicgen]'"


def _transformers() -> Any:
    try:
        import sentencepiece  # noqa: F401  (the slow tokenizer fails late and obscurely without it)
        import transformers
    except ImportError as error:
        raise GenModelError(
            f"this model describes its music through a text encoder, which needs another package: {INSTALL}",
            code="E_MODEL",
            field="model",
        ) from error
    return transformers


def find_text_encoder(name: str, checkpoint: Path | None) -> Path:
    """The folder of a text encoder; ModelNotFound with the command that gets it."""
    for place in places(name, checkpoint):
        if (place / "config.json").is_file() and has_weights(place):
            return place
    known = name in T5_DIMS or "/" in name
    how = f"run: segue pull {repo_id(name)}" if known else "put its folder beside the model's folder"
    raise ModelNotFound(f"the text encoder {name} of this model is not on this machine; {how}", value=name)


class LocalEncoders:
    """Gives text encoders by name from where they lie around one checkpoint (an ``EncoderSource``)."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint

    def __call__(self, name: str) -> TextEncoder:
        folder = find_text_encoder(name, self.checkpoint)
        return load_text_encoder(folder, name)


def load_text_encoder(folder: Path, name: str) -> TextEncoder:
    """A T5 encoder from a Hugging Face folder: configuration, weights, tokenizer."""
    state = read_weights(folder, _is_encoder_weight)
    return build_text_encoder(read_json(folder / "config.json"), state, folder, name)


def _is_encoder_weight(name: str) -> bool:
    return name.startswith(("encoder.", "shared."))


def build_text_encoder(
    config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path, name: str
) -> TextEncoder:
    """A T5 encoder in float32 from its configuration and weights (``encoder.…``, ``shared.weight``).

    ``embed_tokens`` may be absent, being the same table as ``shared`` (or the other way round). Raises
    CheckpointError for another kind of encoder or weights that do not fit.
    """
    transformers = _transformers()
    if config.get("model_type", "t5") not in ("t5", "mt5"):
        raise CheckpointError(
            f"{folder} holds no T5 encoder", field="text_encoder.model_type", value=config.get("model_type")
        )
    weights = {key: value for key, value in state.items() if _is_encoder_weight(key)}
    tied = ("shared.weight", "encoder.embed_tokens.weight")
    for one, other in (tied, tied[::-1]):
        if one in weights and other not in weights:
            weights[other] = weights[one]
    try:
        t5_config = transformers.T5Config.from_dict(dict(config))
        with without_weights():
            module: nn.Module = transformers.T5EncoderModel(t5_config)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a T5 encoder: {error}", field="text_encoder"
        ) from error
    own = set(module.state_dict())
    # newer releases keep one name of the tied table
    load_into(module, {key: value for key, value in weights.items() if key in own}, folder, "text encoder")
    return TextEncoder(module.eval(), load_tokenizer(folder), int(t5_config.d_model), name)


def load_tokenizer(folder: Path) -> Any:
    """The T5 tokenizer of a folder: sentencepiece's own model, else ``tokenizer.json``."""
    transformers = _transformers()
    try:
        if (folder / "spiece.model").is_file():
            return transformers.T5Tokenizer.from_pretrained(str(folder), local_files_only=True, legacy=True)
        if (folder / "tokenizer.json").is_file():
            # tokenizer_config.json may ask for a conversion from the slow form, which is not here
            return transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(folder / "tokenizer.json"),
                pad_token="<pad>",
                eos_token="</s>",
                unk_token="<unk>",
            )
    except Exception as error:
        # sentencepiece and tokenizers raise their own kinds on a broken file
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read: {error}", field="tokenizer"
        ) from error
    raise CheckpointError(
        f"{folder} has no tokenizer", field="tokenizer", allowed="spiece.model or tokenizer.json"
    )
