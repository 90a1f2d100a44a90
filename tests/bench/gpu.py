"""Captured steps at the published shapes with random weights, on a CUDA device, against ``transformers`` in
float16 in one run; many sessions at once; the codec.

Guidance 3, 16 text tokens; the peer's weights are ours in float16. Rounds are interleaved and one that warms
up (and captures) is left out; the host waits for the device before and after what is timed, so that times per
step are those of whole generations, medians of rounds. ``--device cpu --shapes tiny`` rehearses the same code
where there is no such device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from genmodel.engine.captured.stepper import LANES, CapturedStepper
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.lm.conditioning import ConditioningProvider
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser
from genmodel.lm.lm import LMModel
from tests.bench import codec as codecs
from tests.bench import lm as shapes
from tests.bench.aims import Aim
from tests.bench.steps import take


@dataclass(frozen=True)
class Shape:
    dim: int
    layers: int
    heads: int
    card: int = 2048


SHAPES = {
    "small": Shape(1024, 24, 16),
    "medium": Shape(1536, 48, 24),
    "large": Shape(2048, 48, 32),
    "tiny": Shape(64, 2, 2, 64),  # for rehearsals
}
PLACES = (50, 500, 1450)  # frames that are there when steps are timed
PREFILL_FRAMES = 500
PLACE_STEPS = 40
SECONDS = 2.0
CODEC_S, CODEC_CHUNKS = 10.0, (50, 25, 10)
READ_BYTES = {"cuda": 2**32, "cpu": 2**26}
ROOM = "H200"  # the device that the aims are for
AIMS = (
    *(
        Aim(f"{ROOM}, captured step, {name}", f"shapes.{name}.ms_per_step.1", most=most, unit="ms")
        for name, most in (("small", 0.5), ("medium", 1.1), ("large", 1.9))
    ),
    *(
        Aim(f"{name} against transformers float16 eager", f"shapes.{name}.ratio", least=10, unit="×")
        for name in ("small", "medium", "large")
    ),
    Aim("16 sessions over one, small", "shapes.small.throughput_16_over_1", least=8, unit="×"),
    Aim("each take as alone, small", "shapes.small.bit_identical", holds=True),
    Aim("step at 29 s over step at 1 s, small", "shapes.small.step_far_over_near", most=1.5, unit="×"),
)


def absent() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def model_of(shape: Shape, device: torch.device) -> LMModel:
    """Random weights on the device, drawn with variance 1/fan-in."""
    config = LMConfig(
        dim=shape.dim, num_heads=shape.heads, num_layers=shape.layers, n_q=shapes.CODEBOOKS, card=shape.card,
        cfg_coef=shapes.GUIDANCE,
    )  # fmt: skip
    with torch.device("meta"):
        lm = LMModel(config, None, ConditionFuser({"cross": ["description"]}))
    lm.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if parameter.dim() > 1:
                bound = (3 / parameter.shape[1]) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.fill_(float("norm" in name and name.endswith("weight")))
    torch.manual_seed(0)
    text = shapes.FixedText(torch.randn(shapes.TEXT_TOKENS, shapes.TEXT_DIM), shape.dim)
    lm.condition_provider = ConditioningProvider({"description": text.to(device)})
    return lm.eval()


class Peer(shapes.Peer):
    """``transformers`` on the device, in float16 on CUDA."""

    def __init__(self, lm: LMModel, shape: Shape, device: torch.device) -> None:
        names = {"DIM": shape.dim, "LAYERS": shape.layers, "HEADS": shape.heads, "CARD": shape.card}
        with mock.patch.multiple(shapes, **names):
            model = shapes.peer_model(lm)
        model = model.to(device, torch.float16 if device.type == "cuda" else torch.float32)
        hidden: Tensor = lm.condition_provider.conditioners["description"].hidden  # type: ignore[assignment]
        super().__init__(model, hidden)
        self._device = device

    def __call__(self, frames: int, sample: bool = True) -> Tensor:
        with torch.device(self._device):
            return super().__call__(frames, sample)


class Company:
    """``count`` takes made side by side by a stepper of their own, which keeps its graphs."""

    def __init__(self, lm: LMModel, count: int, captured: bool = True) -> None:
        self.lm, self.count = lm, count
        self.stepper: Stepper = (CapturedStepper if captured else Stepper)(lm, count)
        self.sessions: list[Session] = []

    def timed(self, frames: int, known: int = 0) -> tuple[float, float]:
        """Seconds of the first prefill, and of a step while all are aboard."""
        stepper, device = self.stepper, self.stepper.device
        self.sessions = [take(self.lm, frames, seed, known) for seed in range(self.count)]
        prefill_s = 0.0
        for session in self.sessions:
            stepper.admit(session)
            wait(device)
            begun = time.perf_counter()
            stepper.prefill([session])
            wait(device)
            prefill_s = prefill_s or time.perf_counter() - begun
        steps, begun = 0, time.perf_counter()
        while not any(session.done for session in self.sessions):
            stepper.step()
            steps += 1
        wait(device)
        step_s = (time.perf_counter() - begun) / steps
        for session in self.sessions:
            stepper.check_finite(session)
            stepper.release(session)
        return prefill_s, step_s


def read_bandwidth_gbs(device: torch.device) -> float:
    """What the device reads at best, in GB/s: the sum of a block, the median of five."""
    block = torch.ones(READ_BYTES[device.type] // 4, device=device)
    times = []
    for _ in range(6):
        wait(device)
        begun = time.perf_counter()
        block.sum()
        wait(device)
        times.append(time.perf_counter() - begun)
    return block.nbytes / statistics.median(times[1:]) / 1e9


def of_shape(
    shape: Shape, device: torch.device, frames: int, rounds: int, bandwidth_gbs: float
) -> dict[str, Any]:
    lm = model_of(shape, device)
    return abreast(lm, shape, device, frames, rounds, bandwidth_gbs) | late(lm, rounds)


def abreast(
    lm: LMModel, shape: Shape, device: torch.device, frames: int, rounds: int, bandwidth_gbs: float
) -> dict[str, Any]:
    """Steps of one take and of several, against the uncaptured step and the peer."""
    peer = Peer(lm, shape, device)
    companies = {count: Company(lm, count) for count in LANES}
    plain = Company(lm, 1, captured=False)
    steps: dict[str, list[float]] = {str(count): [] for count in LANES}
    others: dict[str, list[float]] = {"uncaptured": [], "peer": []}
    identical = True
    for number in range(rounds + 1):
        for count, company in companies.items():
            _, step_s = company.timed(frames)
            steps[str(count)] += [step_s] if number else []
        for name, call in (
            ("uncaptured", lambda: plain.timed(frames)[1]),
            ("peer", lambda: _timed(lambda: peer(frames), device) / (frames + shapes.CODEBOOKS - 1)),
        ):
            step_s = call()
            others[name] += [step_s] if number else []
        first = companies[1].sessions[0].tokens
        identical &= all(torch.equal(c.sessions[0].tokens, first) for c in companies.values())
    seconds = {name: statistics.median(times) for name, times in (steps | others).items()}
    size = shapes.weights_per_step(companies[1].stepper.network)
    floor_s = size / bandwidth_gbs / 1e9
    return {
        "ms_per_step": {str(count): 1e3 * seconds[str(count)] for count in LANES},
        "xrt": 1 / shapes.FRAME_RATE / seconds["1"],
        "uncaptured_ms_per_step": 1e3 * seconds["uncaptured"],
        "peer_ms_per_step": 1e3 * seconds["peer"],
        "ratio": seconds["peer"] / seconds["1"],
        "ratio_uncaptured": seconds["peer"] / seconds["uncaptured"],
        **{f"throughput_{n}_over_1": n * seconds["1"] / seconds[str(n)] for n in LANES if n > 1},
        "bit_identical": identical,
        "floor_ms": 1e3 * floor_s,
        "over_floor": seconds["1"] / floor_s,
        "bandwidth_gbs": size / seconds["1"] / 1e9,
        "precision": companies[1].stepper.network.precision,
        "graphs": {str(n): c.stepper.graphs.captured for n, c in companies.items()},  # type: ignore[attr-defined]
    }


def late(lm: LMModel, rounds: int) -> dict[str, Any]:
    """Steps late in a take, and hearing a prompt."""
    companies = {places: Company(lm, 1) for places in PLACES}
    hearing = Company(lm, 1)
    steps: dict[int, list[float]] = {places: [] for places in PLACES}
    prefills: list[float] = []
    for number in range(rounds + 1):
        for places, company in companies.items():
            _, step_s = company.timed(PLACE_STEPS, places)
            steps[places] += [step_s] if number else []
        prefill_s, _ = hearing.timed(2, PREFILL_FRAMES)
        prefills += [prefill_s] if number else []
    medians = {places: statistics.median(times) for places, times in steps.items()}
    return {
        "step_ms_at": {str(places): 1e3 * step_s for places, step_s in medians.items()},
        "step_far_over_near": medians[PLACES[-1]] / medians[PLACES[0]],
        "prefill_ms": 1e3 * statistics.median(prefills),
        "prefill_frames": PREFILL_FRAMES,
    }


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    begun = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begun


@torch.no_grad()
def of_codec(device: torch.device, rounds: int) -> dict[str, Any]:
    """Decoding: the whole, and as a stream in chunks, in seconds of audio per second."""
    theirs, ours = codecs.pair()
    theirs, ours = theirs.to(device), ours.to(device)
    frames = round(CODEC_S * ours.frame_rate)
    books, card = ours.num_codebooks, codecs.SHAPE["codebook_size"]
    codes = torch.randint(0, card, (1, books, frames), generator=torch.Generator().manual_seed(0)).to(device)

    def stream(chunk: int) -> None:
        decoder = ours.stream(1)
        for piece in codes.split(chunk, 2):
            decoder.push(piece)
        decoder.finish()

    calls: dict[str, Callable[[], Any]] = {
        "transformers": lambda: theirs.decode(codes[None], [None]),
        "whole": lambda: ours.decode(codes),
        **{f"chunks of {chunk}": lambda chunk=chunk: stream(chunk) for chunk in CODEC_CHUNKS},
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            taken_s = _timed(call, device)
            times[name] += [taken_s] if number else []
    return {name: CODEC_S / statistics.median(found) for name, found in times.items()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    import transformers

    device = torch.device(getattr(args, "device", None) or "cuda")
    asked = getattr(args, "shapes", None)
    names = asked.split(",") if asked else [name for name in SHAPES if name != "tiny"]
    frames = round((args.seconds or SECONDS) * shapes.FRAME_RATE)
    rounds = max(1, args.rounds)
    bandwidth_gbs = read_bandwidth_gbs(device)
    found = {}
    for name in names:
        found[name] = of_shape(SHAPES[name], device, frames, rounds, bandwidth_gbs)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    machine = codecs.machine()
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "shapes": found,
        "codec_xrt": of_codec(device, rounds),
        "machine_bandwidth_gbs": bandwidth_gbs,
        "frames": frames,
        "text_tokens": shapes.TEXT_TOKENS,
        "guidance": shapes.GUIDANCE,
        "rounds": rounds,
        "device": str(device),
        "peer": f"transformers {transformers.__version__}",
        "machine": machine,
    }
