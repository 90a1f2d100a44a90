"""The language model at MusicGen-small's shape with random weights, against ``transformers`` in one run.

Both hold the same weights (the peer's are views of ours) and hear the same 16 text vectors; guidance 3. Each
round times a whole generation of every contender once; a warming round, in which greedy tokens are compared,
is left out. Figures are medians. ``xrt``: seconds of audio per second of language model time; the codec is
not in it. int8 is compared with the peer's bfloat16. Where float32 and bfloat16 run in the native kernels
torch's form of our steps runs beside them (``native_over_torch``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genmodel.engine.kernels import PRECISIONS, native_absent, native_floats, packing_available
from genmodel.engine.native.network import NativeNetwork
from genmodel.engine.network import Network
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions, run_sessions
from genmodel.lm.conditioners.base import Conditioner
from genmodel.lm.conditioning import ConditioningAttributes, ConditioningProvider
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling
from tests.bench.aims import Aim
from tests.bench.clip import clip
from tests.bench.codec import machine
from tests.bench.steps import take, timed_steps

DIM, LAYERS, HEADS, CODEBOOKS, CARD = 1024, 24, 16, 4, 2048
TEXT_TOKENS, TEXT_DIM = 16, 768
FRAME_RATE = 50.0
SECONDS = 1.2  # 60 frames
GREEDY_FRAMES = 12
GUIDANCE = 3.0
PLACES_S = (1, 10, 29)
PREFILL_FRAMES, TIMED_STEPS = 500, 24
CLIP_S = 30.0
AIMS = (
    Aim("float32, tokens identical, against transformers float32", "ratio_fp32", least=4, unit="×"),
    Aim("greedy tokens in float32 are those of transformers", "tokens_identical", holds=True),
    Aim("bfloat16 against transformers bfloat16", "ratio_bf16", least=2, unit="×"),
    Aim("int8 against transformers bfloat16", "ratio_int8", least=5, unit="×"),
    Aim("int8 step over its bandwidth floor", "over_floor.int8", most=1.15, unit="×"),
    Aim("int8, step at 29 s over step at 1 s", "step_far_over_near.int8", most=1.5, unit="×"),
    Aim("int8, hearing 500 frames, in steps of transformers float32", "prefill_steps.int8", most=5),
    Aim("30 s clip, codec included", "clip.xrt", least=1.25, unit="xrt"),
    Aim("its slowest second", "clip.slowest_second_xrt", least=1.0, unit="xrt"),
)
NAMES = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}  # precision -> key of its figures


class FixedText(Conditioner):
    """Gives the same text vectors [L, D] to every row, zeros to rows without a text."""

    condition_type = "text"

    def __init__(self, hidden: Tensor, output_dim: int) -> None:
        super().__init__(hidden.shape[1], output_dim)
        self.register_buffer("hidden", hidden)

    def tokenize(self, inputs: Any) -> Tensor:
        return torch.tensor([text is not None for text in inputs])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mask = inputs[:, None].expand(-1, len(self.hidden)).long()  # type: ignore[arg-type]
        return self.output_proj(self.hidden)[None] * mask[..., None], mask


def our_model() -> LMModel:
    """Random weights, drawn with variance 1/fan-in."""
    torch.manual_seed(0)
    config = LMConfig(
        dim=DIM, num_heads=HEADS, num_layers=LAYERS, n_q=CODEBOOKS, card=CARD, cfg_coef=GUIDANCE
    )
    text = FixedText(torch.randn(TEXT_TOKENS, TEXT_DIM), DIM)
    fuser = ConditionFuser({"cross": ["description"]})
    with torch.device("meta"):
        lm = LMModel(config, None, fuser)
    lm.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0)
            else:
                bound = (3 / parameter.shape[1]) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
        for name, parameter in lm.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
    lm.condition_provider = ConditioningProvider({"description": text})
    return lm.eval()


def peer_model(lm: LMModel) -> Any:
    """``transformers``' model with the same weights: views of ours, so that both fit into memory."""
    import transformers
    from transformers.models.musicgen import MusicgenDecoderConfig

    text = transformers.T5Config(d_model=TEXT_DIM, d_kv=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=8)
    audio = transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=CARD, codebook_dim=8, sampling_rate=32000,
        upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[2.2], num_lstm_layers=1,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=CARD, hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        ffn_dim=4 * DIM, num_codebooks=CODEBOOKS, pad_token_id=CARD, bos_token_id=CARD,
    )  # fmt: skip
    config = transformers.MusicgenConfig.from_sub_models_config(text, audio, decoder)
    with torch.device("meta"):
        causal = transformers.MusicgenForCausalLM(config.decoder)
    state: dict[str, Tensor] = {}
    for name, value in lm.state_dict().items():
        if name.startswith("condition_provider"):
            continue
        state |= _renamed(name, value)
    causal.load_state_dict(state, strict=False, assign=True)
    positions = causal.model.decoder.embed_positions
    positions.weights = positions.get_embedding(2048, DIM)
    peer = transformers.MusicgenForConditionalGeneration(
        text_encoder=transformers.T5EncoderModel(config.text_encoder),
        audio_encoder=transformers.EncodecModel(config.audio_encoder),
        decoder=causal,
    ).eval()
    ours: nn.Linear = lm.condition_provider.conditioners["description"].output_proj  # type: ignore[assignment]
    peer.enc_to_dec_proj.load_state_dict(ours.state_dict())
    return peer


def _renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of ours under ``transformers``' names."""
    base = "model.decoder."
    if name.startswith("emb."):
        return {f"{base}embed_tokens.{name.split('.')[1]}.weight": value}
    if name.startswith("linears."):
        return {f"lm_heads.{name.split('.')[1]}.weight": value}
    if name.startswith("out_norm."):
        return {name.replace("out_norm", f"{base}layer_norm"): value}
    for ours, theirs in (
        ("transformer.layers", f"{base}layers"),
        ("norm1", "self_attn_layer_norm"),
        ("norm_cross", "encoder_attn_layer_norm"),
        ("norm2", "final_layer_norm"),
        ("linear1", "fc1"),
        ("linear2", "fc2"),
        ("cross_attention", "encoder_attn"),
    ):
        name = name.replace(ours, theirs)
    if not name.endswith("in_proj_weight"):
        return {name: value}
    parts = zip("qkv", value.chunk(3), strict=True)
    return {name.replace("in_proj_weight", f"{part}_proj.weight"): rows for part, rows in parts}


class Peer:
    """Whole generations by ``transformers``, the codec's decode left out."""

    def __init__(self, model: Any, hidden: Tensor) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        text = BaseModelOutput(last_hidden_state=hidden[None].to(model.enc_to_dec_proj.weight.dtype))
        self.model = model
        self.tokens = torch.empty(0)
        model.text_encoder.forward = lambda **kwargs: text
        model.audio_encoder.decode = self._decode

    def _decode(self, audio_codes: Tensor, *rest: Any, **more: Any) -> Any:
        from types import SimpleNamespace

        self.tokens = audio_codes[0]
        return SimpleNamespace(audio_values=torch.zeros(1, 1, 1))

    @torch.no_grad()
    def __call__(self, frames: int, sample: bool = True) -> Tensor:
        """Codes [1, K, frames]."""
        self.model.generate(
            input_ids=torch.ones(1, TEXT_TOKENS, dtype=torch.long),
            attention_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.long),
            do_sample=sample,
            **({"top_k": 250} if sample else {}),
            guidance_scale=GUIDANCE,
            max_new_tokens=frames + CODEBOOKS - 1,
        )
        return self.tokens


class Ours:
    """Whole generations by the engine, caches empty at the start as for the peer."""

    def __init__(self, lm: LMModel, precision: str, native: bool = True) -> None:
        self.lm, self.stepper = lm, Stepper(lm, 1, precision, native=native)

    def __call__(self, frames: int, sample: bool = True) -> Tensor:
        rows = [ConditioningAttributes(text={"description": "a text"})]
        sampling = Sampling(use_sampling=sample)
        sessions = make_sessions(self.lm, None, rows, frames, frames, None, sampling, seed=1)
        run_sessions(self.stepper, sessions)
        return sessions[0].tokens[None]


def weights_per_step(network: Network) -> int:
    """Bytes of weights that one step reads (cross-attention's keys and values are made once a request)."""
    if isinstance(network, NativeNetwork):
        return network.step_bytes
    config = network.config
    each = torch.finfo(network.dtype).bits // 8
    block = config.dim * (4 * config.dim + 2 * config.dim + 2 * config.feedforward_dim)
    return each * config.num_layers * block + 4 * config.n_q * config.card * config.dim


def read_bandwidth_gbs() -> float:
    """What this machine reads at best, in GB/s: the sum of a quarter of a GiB, the median of five."""
    block = torch.ones(2**26)
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - begun)
    return block.nbytes / statistics.median(times[1:]) / 1e9


def precisions(asked: str | None) -> list[str]:
    """Those asked for, or all that this machine runs at speed."""
    if asked is not None:
        return [name for name in NAMES if name in asked.split(",")]
    found = ["float32"]
    if packing_available(torch.bfloat16) or native_floats():
        found.append("bfloat16")
    return found if native_absent() else [*found, "int8"]


def by_place(ours: dict[str, Ours], rounds: int) -> dict[str, Any]:
    """Steps late in a take, and hearing a prompt; contenders in turn, one warming round left out."""
    steps: dict[str, dict[str, list[float]]] = {name: {str(at): [] for at in PLACES_S} for name in ours}
    prefills: dict[str, list[float]] = {name: [] for name in ours}
    for number in range(min(2, rounds) + 1):
        for name, one in ours.items():
            prefill_s, _ = timed_steps(one.stepper, [take(one.lm, 2, 1, PREFILL_FRAMES)])
            prefills[name] += [prefill_s] if number else []
            for at in PLACES_S:
                if number == 0 and at != PLACES_S[-1]:
                    continue  # the longest alone makes all caches large enough
                known = round(at * FRAME_RATE)
                _, times = timed_steps(one.stepper, [take(one.lm, TIMED_STEPS, 1, known)])
                steps[name][str(at)] += times if number else []
    near, far = str(PLACES_S[0]), str(PLACES_S[-1])
    medians = {
        name: {at: 1e3 * statistics.median(times) for at, times in found.items()}
        for name, found in steps.items()
    }
    return {
        "step_ms_at": medians,
        "step_far_over_near": {name: found[far] / found[near] for name, found in medians.items()},
        "prefill_s": {name: statistics.median(times) for name, times in prefills.items()},
        "prefill_frames": PREFILL_FRAMES,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    frames = round((args.seconds or SECONDS) * FRAME_RATE)
    lm = our_model()
    hidden: Tensor = lm.condition_provider.conditioners["description"].hidden  # type: ignore[assignment]
    ours = {NAMES[name]: Ours(lm, name) for name in precisions(args.precision)}
    contenders: dict[str, Callable[..., Tensor]] = dict(ours)
    if native_floats():
        for name in precisions(args.precision):
            if name != "int8" and packing_available(PRECISIONS[name]):
                contenders[f"torch_{NAMES[name]}"] = Ours(lm, name, native=False)
    peer = peer_model(lm)
    if "fp32" in ours:
        contenders["peer_fp32"] = Peer(peer, hidden)
    if ours.keys() & {"bf16", "int8"}:
        import copy

        contenders["peer_bf16"] = Peer(copy.deepcopy(peer).to(torch.bfloat16), hidden)
    result: dict[str, Any] = {}
    if "fp32" in ours:
        result["tokens_identical"] = torch.equal(
            contenders["fp32"](GREEDY_FRAMES, False), contenders["peer_fp32"](GREEDY_FRAMES, False)
        )
    times: dict[str, list[float]] = {name: [] for name in contenders}
    load_before = os.getloadavg()[0]
    bandwidths = []
    for number in range(args.rounds + 1):
        bandwidths.append(read_bandwidth_gbs())
        for name, generate in contenders.items():
            begun = time.perf_counter()
            generate(frames)
            if number:
                times[name].append(time.perf_counter() - begun)
    result |= by_place(ours, max(1, args.rounds))
    bandwidth = statistics.median(bandwidths)
    steps = frames + CODEBOOKS - 1
    per_step = {name: statistics.median(values) / steps for name, values in times.items()}
    bytes_per_step = {name: weights_per_step(one.stepper.network) for name, one in ours.items()}
    for name in ours:
        rival = "peer_fp32" if name == "fp32" else "peer_bf16"
        result[f"ratio_{name}"] = per_step[rival] / per_step[name]
        result[f"xrt_{name}"] = 1 / FRAME_RATE / per_step[name]
    result["native_over_torch"] = {
        name: per_step[f"torch_{name}"] / per_step[name] for name in ours if f"torch_{name}" in per_step
    }
    if "peer_fp32" in per_step:
        result["prefill_steps"] = {
            name: found / per_step["peer_fp32"] for name, found in result["prefill_s"].items()
        }
    if args.rounds:
        fastest = next(reversed(ours))
        result["clip"] = clip(lm, {short: name for name, short in NAMES.items()}[fastest], CLIP_S)
    return {
        "xrt": 1 / FRAME_RATE / per_step[next(iter(ours))],
        "ms_per_step": {name: 1e3 * value for name, value in per_step.items()},
        **result,
        "bandwidth_gbs": {name: bytes_per_step[name] / per_step[name] / 1e9 for name in ours},
        "machine_bandwidth_gbs": bandwidth,
        "floor_ms": {name: size / bandwidth / 1e6 for name, size in bytes_per_step.items()},
        "over_floor": {
            name: per_step[name] * bandwidth * 1e9 / size for name, size in bytes_per_step.items()
        },
        "shape": {"dim": DIM, "layers": LAYERS, "heads": HEADS, "codebooks": CODEBOOKS, "card": CARD},
        "frames": frames,
        "text_tokens": TEXT_TOKENS,
        "guidance": GUIDANCE,
        "batch": 1,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "load": [load_before, os.getloadavg()[0]],
        "peer": _peer_version(),
        "machine": machine(),
    }


def _peer_version() -> str:
    import transformers

    return f"transformers {transformers.__version__}"
