"""EnCodec at the published 32 kHz shape with random weights, against ``transformers.EncodecModel`` in one
run.

Both hold the same weights (ours were loaded from the other's state dict), so the figures come with the
errors. Rounds are interleaved: each round times every contender once, after one warming round that is left
out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmodel.codec import EncodecModel, encodec_config_from_hf, load_encodec

ALL_ARGUMENTS = ("--seconds", "5")
SHAPE: dict[str, Any] = {
    "sampling_rate": 32000,
    "audio_channels": 1,
    "num_filters": 64,
    "hidden_size": 128,
    "upsampling_ratios": [8, 5, 4, 4],
    "num_residual_layers": 1,
    "num_lstm_layers": 2,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
    "pad_mode": "reflect",
    "codebook_size": 2048,
    "target_bandwidths": [2.2],
}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {
        "cpu": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def pair(forget_bias: float = 0.0, seed: int = 0) -> tuple[Any, EncodecModel]:
    """``transformers``' codec with random weights and ours with the same ones.

    ``forget_bias`` is added to the LSTMs' forget gates: 0 forgets within some 15 frames, 4 remembers for
    seconds, as trained ones may.
    """
    import transformers

    torch.manual_seed(seed)
    theirs = transformers.EncodecModel(transformers.EncodecConfig(**SHAPE)).eval()
    with torch.no_grad():
        for layer in theirs.quantizer.layers:
            layer.codebook.embed.normal_()
        for name, parameter in theirs.named_parameters():
            if "lstm.bias_ih" in name:
                width = parameter.numel() // 4
                parameter[width : 2 * width] += forget_bias
    return theirs, load_encodec(encodec_config_from_hf(theirs.config.to_dict()), theirs.state_dict())


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender; every round runs all of them once, in turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def run(args: argparse.Namespace) -> dict[str, Any]:
    """Encode and decode: seconds of work per second of audio, ratios above 1 mean Segue is faster."""
    rounds = getattr(args, "rounds", None) or 5
    threads = getattr(args, "threads", None)
    seconds = getattr(args, "seconds", None) or 10.0
    if threads:
        torch.set_num_threads(threads)
    import transformers

    theirs, ours = pair()
    rate = ours.sample_rate
    cases = []
    for batch, length_s in ((1, 1.0), (1, float(seconds)), (4, float(seconds) / 2)):
        samples = round(length_s * rate)
        wave = 0.1 * torch.randn(batch, 1, samples)
        codes = theirs.encode(wave, bandwidth=2.2).audio_codes
        reference = theirs.decode(codes, [None]).audio_values
        ours.kernels = "auto"
        equal = float((ours.encode(wave)[0] == codes[0]).float().mean())
        error = relative_error(ours.decode(codes[0]), reference)

        def ours_as(kernels: Any, call: Callable[[], Any]) -> Callable[[], Any]:
            def go() -> None:
                ours.kernels = kernels
                call()

            return go

        audio_s = batch * samples / rate
        for what, their_call, our_call in (
            ("decode", lambda c=codes: theirs.decode(c, [None]), lambda c=codes: ours.decode(c[0])),
            ("encode", lambda w=wave: theirs.encode(w, bandwidth=2.2), lambda w=wave: ours.encode(w)),
        ):
            medians = interleaved(
                {
                    "transformers": their_call,
                    "segue": ours_as("auto", our_call),
                    "segue plain": ours_as("plain", our_call),
                    "segue reference": ours_as("reference", our_call),
                },
                rounds,
            )
            cases.append(
                {
                    "what": what,
                    "batch": batch,
                    "seconds": length_s,
                    "per_audio_s": {name: value / audio_s for name, value in medians.items()},
                    "ratio": medians["transformers"] / medians["segue"],
                    "xrt": audio_s / medians["segue"],
                    "codes_equal": equal,
                    "decode_max_error": error,
                }
            )
    ours.kernels = "auto"
    return {
        "bench": "codec",
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "transformers": transformers.__version__,
        "shape": SHAPE,
        "cases": cases,
        "decode_ratio": cases[2]["ratio"],
        "encode_ratio": cases[3]["ratio"],
    }


def table(result: dict[str, Any]) -> str:
    """The result for reading."""
    heads = "".join(
        f"{t:>{w}}" for t, w in (("", 8), ("batch", 6), ("length", 8), ("transformers", 14), ("segue", 8))
    )
    heads += "".join(f"{t:>{w}}" for t, w in (("ratio", 7), ("plain", 8), ("reference", 11), ("error", 10)))
    lines = [
        f"EnCodec 32 kHz, {result['machine']['cpu']}, {result['threads']} threads,",
        f"median of {result['rounds']} interleaved rounds; seconds of work per second of audio",
        heads + f"{'codes =':>9}",
    ]
    for case in result["cases"]:
        cost = case["per_audio_s"]
        lines.append(
            f"{case['what']:8}{case['batch']:6}{case['seconds']:7.1f}s{cost['transformers']:14.4f}"
            f"{cost['segue']:8.4f}{case['ratio']:6.2f}x"
            f"{cost['segue plain']:8.4f}{cost['segue reference']:11.4f}"
            f"{case['decode_max_error']:10.1e}{case['codes_equal']:9.4f}"
        )
    return "\n".join(lines)
