"""EnCodec from files: configurations and weights in AudioCraft's and in Hugging Face's layout.

Weight normalisation is folded here, once (``weight = g * v / |v|`` over all axes but the first), by the
operator that both libraries use, so that folded weights are bit for bit what they compute on every call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from genmodel.codec.config import EncodecConfig, SEANetConfig
from genmodel.codec.encodec import EncodecModel, Kernels
from genmodel.codec.seanet import TrimmedConvTranspose
from genmodel.errors import CheckpointError

_PREFIXES = ("", "audio_encoder.", "compression_model.", "model.", "encodec.")
#: Training statistics of the codebooks, and buffers that follow from the configuration.
_IGNORED = re.compile(r"\.(inited|cluster_size|embed_avg|stride|kernel_size|padding_total)$")
_NORMED = {
    ".weight_g": "g",
    ".weight_v": "v",
    ".parametrizations.weight.original0": "g",
    ".parametrizations.weight.original1": "v",
}
#: Defaults of AudioCraft's SEANet classes, for keys that a configuration leaves out.
_AUDIOCRAFT_DEFAULTS: dict[str, Any] = {
    "dimension": 128,
    "n_filters": 32,
    "n_residual_layers": 3,
    "ratios": [8, 5, 4, 2],
    "norm": "none",
    "pad_mode": "reflect",
    "lstm": 0,
}
#: Defaults of Hugging Face's EncodecConfig, for keys that its nested configurations leave out.
_HF_DEFAULTS: dict[str, Any] = {
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
    "sampling_rate": 24000,
    "audio_channels": 1,
    "normalize": False,
    "hidden_size": 128,
    "num_filters": 32,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 5, 4, 2],
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "compress": 2,
    "num_lstm_layers": 2,
    "trim_right_ratio": 1.0,
    "codebook_size": 1024,
    "codebook_dim": None,
    "use_conv_shortcut": True,
}


def _plain(cfg: Any, name: str, default: Any = None) -> Any:
    """One node of an OmegaConf or plain mapping, interpolations resolved, as plain Python."""
    try:
        if OmegaConf.is_config(cfg):
            node = OmegaConf.select(cfg, name)
            return default if node is None else _container(node)
        return cfg.get(name, default)
    except OmegaConfBaseException as error:
        raise CheckpointError(
            f"The codec's configuration cannot be read at {name}: {str(error).splitlines()[0]}", field=name
        ) from error


def _container(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _need(mapping: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in mapping or mapping[key] is None:
        raise CheckpointError(
            f"The codec's configuration lacks {where}.{key}", field=f"{where}.{key}", allowed="a value"
        )
    return mapping[key]


def encodec_config_from_audiocraft(xp_cfg: Any) -> EncodecConfig:
    """From the ``xp.cfg`` of a ``compression_state_dict.bin`` (DictConfig or plain mapping).

    Raises ``CheckpointError`` for codecs that are not EnCodec and for missing or unsupported values.
    """
    for name, only in (
        ("compression_model", "encodec"),
        ("encodec.autoencoder", "seanet"),
        ("encodec.quantizer", "rvq"),
    ):
        head, _, tail = name.partition(".")
        value = _plain(xp_cfg, head, {} if tail else only)
        value = value.get(tail, only) if tail else value
        if value != only:
            raise CheckpointError(
                f"The codec's {name} is not supported", field=name, value=value, allowed=only
            )
    encodec, seanet, rvq = (_plain(xp_cfg, name) for name in ("encodec", "seanet", "rvq"))
    for name, node in (("encodec", encodec), ("seanet", seanet), ("rvq", rvq)):
        if not isinstance(node, Mapping):
            raise CheckpointError(
                f"The codec's configuration lacks its part {name}", field=name, allowed="a mapping"
            )
    sample_rate = encodec.get("sample_rate") or _plain(xp_cfg, "sample_rate")
    channels = encodec.get("channels") or _plain(xp_cfg, "channels") or 1
    shared = {k: v for k, v in seanet.items() if k not in ("encoder", "decoder")}
    shared.setdefault("channels", channels)
    shared.setdefault("causal", bool(encodec.get("causal", False)))
    halves = [
        _seanet({**shared, **(seanet.get(half) or {})}, decoder=half == "decoder")
        for half in ("encoder", "decoder")
    ]
    return EncodecConfig(
        sample_rate=_need({"sample_rate": sample_rate}, "sample_rate", "encodec"),
        channels=channels,
        n_q=_need(rvq, "n_q", "rvq"),
        bins=_need(rvq, "bins", "rvq"),
        encoder=halves[0],
        decoder=halves[1],
        renormalize=bool(encodec.get("renormalize", False)),
    )


def _seanet(values: Mapping[str, Any], decoder: bool) -> SEANetConfig:
    """AudioCraft's keyword arguments of one half; ``norm_params`` are empty for supported norms."""
    known = {f.name for f in fields(SEANetConfig)}
    decoder_only = {"trim_right_ratio", "final_activation", "final_activation_params"}
    kept = {k: v for k, v in values.items() if k in known and (decoder or k not in decoder_only)}
    unknown = sorted(set(values) - known - {"norm_params"})
    if unknown:
        raise CheckpointError(
            f"The codec's configuration has settings that are not known: {', '.join(unknown)}",
            field=f"seanet.{unknown[0]}",
            value=values[unknown[0]],
        )
    kept = {**_AUDIOCRAFT_DEFAULTS, **kept}
    ratios = _need(kept, "ratios", "seanet")
    kept["ratios"] = tuple(ratios) if isinstance(ratios, list | tuple) else ratios
    for name in ("activation_params", "final_activation_params"):
        if name in kept:
            kept[name] = dict(kept[name] or {})
    return SEANetConfig(**kept)


def encodec_config_from_hf(config_json: Mapping[str, Any]) -> EncodecConfig:
    """From Hugging Face's ``config.json`` of an EncodecModel or of a MusicGen around one."""
    values = config_json.get("audio_encoder", config_json)
    kind = values.get("model_type", "encodec")
    if kind != "encodec":
        raise CheckpointError(
            "The audio encoder is of a kind that is not supported",
            field="model_type",
            value=kind,
            allowed="encodec",
        )
    hf = {name: values.get(name, default) for name, default in _HF_DEFAULTS.items()}
    if values.get("chunk_length_s") is not None:
        raise CheckpointError(
            "Codecs that work in overlapping chunks are not supported",
            field="chunk_length_s",
            value=values["chunk_length_s"],
            allowed="null",
        )
    if hf["codebook_dim"] not in (None, hf["hidden_size"]):
        raise CheckpointError(
            "The codebooks must be as wide as the latents",
            field="codebook_dim",
            value=hf["codebook_dim"],
            allowed=str(hf["hidden_size"]),
        )
    seanet = SEANetConfig(
        channels=hf["audio_channels"],
        dimension=hf["hidden_size"],
        n_filters=hf["num_filters"],
        n_residual_layers=hf["num_residual_layers"],
        ratios=tuple(hf["upsampling_ratios"]),
        norm=hf["norm_type"],
        kernel_size=hf["kernel_size"],
        last_kernel_size=hf["last_kernel_size"],
        residual_kernel_size=hf["residual_kernel_size"],
        dilation_base=hf["dilation_growth_rate"],
        causal=hf["use_causal_conv"],
        pad_mode=hf["pad_mode"],
        true_skip=not hf["use_conv_shortcut"],
        compress=hf["compress"],
        lstm=hf["num_lstm_layers"],
        trim_right_ratio=float(hf["trim_right_ratio"]),
    )
    # As the library counts: whole codebooks of ceil(log2(size)) bits within the largest bandwidth (kbit/s).
    frame_rate_hz = -(-hf["sampling_rate"] // seanet.hop_samples)
    bits = max(1, (hf["codebook_size"] - 1).bit_length())
    n_q = int(1000 * hf["target_bandwidths"][-1] // (frame_rate_hz * bits))
    return EncodecConfig(
        sample_rate=hf["sampling_rate"],
        channels=hf["audio_channels"],
        n_q=n_q,
        bins=hf["codebook_size"],
        encoder=seanet,
        decoder=seanet,
        renormalize=bool(hf["normalize"]),
    )


def load_encodec(
    config: EncodecConfig, state: Mapping[str, Tensor], kernels: Kernels = "auto"
) -> EncodecModel:
    """A float32 codec from AudioCraft's or Hugging Face's weights, normed, parametrised or folded.

    ``state`` may hold a whole MusicGen (keys under ``audio_encoder.``). Raises ``CheckpointError`` that names
    the key, in the file's own naming, when one is missing, unknown, misshaped, or not finite.
    """
    with torch.device("meta"):
        model = EncodecModel(config, kernels)
    names = _Names(model, state)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    groups: dict[str, dict[str, str]] = {}
    for key in names.ours:
        target, part = names.target(key)
        if target in wanted:
            groups.setdefault(target, {})[part] = key
        elif not _IGNORED.search(target):
            raise CheckpointError(
                f"The codec's weights hold a tensor that its configuration has no place for: {key}", field=key
            )
    absent = [name for name in wanted if name not in groups]
    if absent:
        first = names.spelled(absent[0])
        raise CheckpointError(
            f"The codec's weights lack {len(absent)} of {len(wanted)} tensors, the first is {first}",
            field=first,
        )
    folded = {target: _tensor(names, target, wanted[target], parts) for target, parts in groups.items()}
    model.load_state_dict(folded, strict=True, assign=True)
    return model.requires_grad_(False).eval()


class _Names:
    """Translates key names of one state dict to AudioCraft's folded ones, and back for messages."""

    def __init__(self, model: EncodecModel, state: Mapping[str, Tensor]) -> None:
        self.state = state
        found = [p for p in _PREFIXES if any(k.startswith(p + "quantizer.") for k in state)]
        self.prefix = found[0] if found else ""
        self.ours = [k for k in state if k.startswith(self.prefix)]
        self.hf = any(k.startswith(self.prefix + "quantizer.layers.") for k in state)
        self.normed = sorted({suffix for k in self.ours for suffix in _NORMED if k.endswith(suffix)})
        self._upsamplers = {
            i for i, m in enumerate(model.decoder.model) if isinstance(m, TrimmedConvTranspose)
        }

    def target(self, key: str) -> tuple[str, str]:
        """(our key, "weight" | "g" | "v" | "plain")."""
        name, part = key[len(self.prefix) :], "plain"
        for suffix, which in _NORMED.items():
            if name.endswith(suffix):
                name, part = name[: -len(suffix)] + ".weight", which
        if self.hf:
            name = re.sub(
                r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name
            )
            match = re.match(r"^(encoder|decoder)\.layers\.(\d+)\.(.*)$", name)
            if match:
                half, index, rest = match.groups()
                if half == "decoder" and int(index) in self._upsamplers and rest.startswith("conv."):
                    rest = "convtr.convtr." + rest[len("conv.") :]
                elif rest.startswith(("conv.", "block.", "shortcut.")):
                    rest = re.sub(r"(^|\.)conv\.(?=[^.]+$)", r"\1conv.conv.", rest)
                name = f"{half}.model.{index}.{rest}"
        return name, part

    def spelled(self, target: str, part: str = "") -> str:
        """Our key in the file's own naming."""
        name = target
        if self.hf:
            name = name.replace("quantizer.vq.layers.", "quantizer.layers.").replace(
                "._codebook.", ".codebook."
            )
            name = (
                name.replace(".model.", ".layers.", 1)
                .replace("convtr.convtr.", "conv.")
                .replace("conv.conv.", "conv.")
            )
        if part in ("g", "v"):
            suffix = next((s for s in self.normed if _NORMED[s] == part), f".weight_{part}")
            if any(s.startswith(".param") for s in self.normed):
                suffix = ".parametrizations.weight.original" + ("0" if part == "g" else "1")
            name = name.removesuffix(".weight") + suffix
        return self.prefix + name


def _tensor(names: _Names, target: str, shape: tuple[int, ...], parts: Mapping[str, str]) -> Tensor:
    if "plain" in parts:
        return _checked(names.state, parts["plain"], [shape]).clone()
    for part in ("g", "v"):
        if part not in parts:
            key = names.spelled(target, part)
            raise CheckpointError(f"The codec's weights lack {key}", field=key)
    v = _checked(names.state, parts["v"], [shape])
    norm_shape = (shape[0],) + (1,) * (len(shape) - 1)
    g = _checked(names.state, parts["g"], [norm_shape, (shape[0],)]).view(norm_shape)
    return torch._weight_norm(v, g, 0)


def _checked(state: Mapping[str, Tensor], key: str, shapes: Iterable[tuple[int, ...]]) -> Tensor:
    value, shapes = state[key], list(shapes)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"The codec's weight {key} is not a floating point tensor",
            field=key,
            value=kind,
            allowed="float tensor",
        )
    if tuple(value.shape) not in shapes:
        raise CheckpointError(
            f"The codec's weight {key} has the wrong shape",
            field=key,
            value=tuple(value.shape),
            allowed=str(shapes[0]),
        )
    value = value.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointError(
            f"The codec's weight {key} holds {count} values that are NaN or infinite",
            field=key,
            value=count,
            allowed="finite values",
        )
    return value
