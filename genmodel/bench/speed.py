"""Times of one precision on this machine: step, prefill, company, first audio, whole takes; and of the codec.

All figures are medians. Takes are random tokens where only time counts, because it does not depend on them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genmodel.bench.quality import SEED, TEXTS
from genmodel.engine.captured.stepper import stepper_for
from genmodel.engine.engine import Engine
from genmodel.engine.session import Session
from genmodel.engine.stepper import MAX_SLOTS, Stepper
from genmodel.engine.windows import make_sessions
from genmodel.errors import GenModelError
from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.request import GenerationRequest

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured. Times in seconds of audio."""

    steps: int = 16  # timed at each place
    positions_s: tuple[float, ...] = (1.0, 10.0, 30.0)
    prefill_s: float = 10.0
    counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    takes: int = 4  # of the quality
    tokens: int = 6000
    take_s: float = 3.0  # a whole take, codec included
    rounds: int = 3
    codec_s: float = 5.0

    def frames_of_quality(self, model: BaseGenModel) -> int:
        """Frames of each take, at least 100 of them, so that the places are not all near the beginning."""
        return max(100, -(-self.tokens // (self.takes * model.lm.n_q)))


FULL = Plan()
QUICK = Plan(
    steps=8, positions_s=(1.0, 10.0), counts=(1, 4, 8), takes=2, tokens=1200, take_s=1.5, rounds=1,
    codec_s=2.0,
)  # fmt: skip
CHUNK_S = 0.2  # of the first audio


def attributes_of(model: BaseGenModel) -> ConditioningAttributes:
    """A text, where the model listens to one."""
    text: dict[str, str | None] = {"description": TEXTS[0]} if "description" in model.conditions else {}
    return ConditioningAttributes(text=text)


def _sessions(model: BaseGenModel, count: int, known: int, frames: int) -> list[Session]:
    """``count`` requests with ``known`` random frames behind them and ``frames`` to make."""
    lm = model.lm
    generator = torch.Generator().manual_seed(SEED)
    prompt: Tensor | None = None
    if known:
        prompt = torch.randint(0, lm.card, (1, lm.n_q, known), generator=generator).expand(count, -1, -1)
    rows = [attributes_of(model)] * count
    total = known + frames
    return make_sessions(lm, prompt, rows, total, total, None, model.default_sampling, SEED)


def _settled(device: torch.device) -> float:
    """The time, when everything that was asked for has been done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timed(model: BaseGenModel, stepper: Stepper, sessions: list[Session], steps: int) -> tuple[float, float]:
    """Seconds of the first prefill, and of a step while all are aboard; they are taken off again."""
    device = model.device
    prefill_s, times = 0.0, []
    try:
        for session in sessions:
            stepper.admit(session)
            begun = _settled(device)
            stepper.prefill([session])
            prefill_s = prefill_s or _settled(device) - begun
        for _ in range(steps):
            begun = _settled(device)
            stepper.step()
            times.append(_settled(device) - begun)
    finally:
        for session in sessions:
            with contextlib.suppress(GenModelError):
                stepper.release(session)
    return prefill_s, statistics.median(times[2:])


def _short_of_memory(error: BaseException) -> bool:
    if isinstance(error, GenModelError):
        return error.code == "E_MEMORY"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error)


def language_model(model: BaseGenModel, precision: str, plan: Plan, tell: Tell) -> dict[str, Any]:
    """Steps by position and by company, and the prefill. Positions beyond the model's window are its end."""
    rate, window = model.frame_rate, model.window_frames
    steps = plan.steps + 2  # the first ones warm up
    positions: dict[str, float] = {}
    prefill: dict[str, float] = {}
    stepper = stepper_for(model.lm, 1, precision, model.capture)
    for at_s in plan.positions_s:
        known = min(round(at_s * rate), window - steps - model.lm.n_q - 8)
        tell(f"{precision}: a step at {known / rate:.0f} s")
        _, step_s = _timed(model, stepper, _sessions(model, 1, known, steps + 8), steps)
        positions[f"{known / rate:.3g}"] = 1e3 * step_s
    known = min(round(plan.prefill_s * rate), window - 8)
    tell(f"{precision}: hearing {known / rate:.0f} s")
    times = [_timed(model, stepper, _sessions(model, 1, known, 7), 3)[0] for _ in range(plan.rounds + 1)]
    prefill[f"{known / rate:.3g}"] = statistics.median(times[1:])
    del stepper
    together: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for count in plan.counts:
        tell(f"{precision}: {count} at once")
        try:
            crowd = stepper_for(model.lm, min(count, MAX_SLOTS), precision, model.capture)
            _, step_s = _timed(model, crowd, _sessions(model, count, 0, steps + 8), steps)
        except (GenModelError, MemoryError, RuntimeError) as error:
            if not _short_of_memory(error):
                raise
            skipped[str(count)] = "does not fit into the memory"
            continue
        together[str(count)] = 1e3 * step_s
    frames_per_s = {count: 1e3 * int(count) / step_ms for count, step_ms in together.items()}
    return {
        "step_ms": positions,
        "prefill_s": prefill,
        "together_step_ms": together,
        "together_frames_per_s": frames_per_s,
        **({"together_skipped": skipped} if skipped else {}),
    }


def _request(model: BaseGenModel, seconds: float, chunk_s: float, seed: int) -> GenerationRequest:
    return GenerationRequest(
        mode="generate",
        frames=max(1, round(seconds * model.frame_rate)),
        text=TEXTS[0] if "description" in model.conditions else None,
        seed=seed,
        chunk_frames=max(1, round(chunk_s * model.frame_rate)),
    )


def whole_takes(model: BaseGenModel, precision: str, plan: Plan, tell: Tell) -> dict[str, float]:
    """From a request to its first audio, and ``xrt`` of a whole take with all its stems."""
    tell(f"{precision}: whole takes")
    model.precision = precision
    engine = Engine(model, 1)
    first: list[float] = []
    speed: list[float] = []
    for number in range(plan.rounds + 1):
        begun = _settled(model.device)
        job = engine.add(_request(model, plan.take_s, CHUNK_S, number))
        heard_s = 0.0
        while engine.busy:
            results = engine.step()
            if job.error is not None:
                raise job.error
            if results and not heard_s:
                heard_s = time.perf_counter() - begun
        took_s = _settled(model.device) - begun
        if number:
            first.append(heard_s)
            speed.append(job.request.frames / model.frame_rate / took_s)
    return {"first_audio_ms": 1e3 * statistics.median(first), "xrt": statistics.median(speed)}


@torch.no_grad()
def codec(model: BaseGenModel, plan: Plan, tell: Tell) -> dict[str, float]:
    """Seconds of audio per second: decoded whole, decoded in pieces of 0.2 s, encoded."""
    tell("the codec")
    compression, rate = model.compression_model, model.frame_rate
    frames = round(plan.codec_s * rate)
    generator = torch.Generator().manual_seed(SEED)
    codes = torch.randint(0, model.lm.card, (1, model.lm.n_q, frames), generator=generator).to(model.device)
    channels = model.audio_channels if model.stems == ("mix",) else len(model.stems)
    wave = 0.1 * torch.randn(1, channels, round(plan.codec_s * model.sample_rate), generator=generator)
    wave = wave.to(model.device)

    def streamed() -> None:
        stream = compression.stream(1)
        for piece in codes.split(max(1, round(CHUNK_S * rate)), dim=2):
            stream.push(piece)
        stream.finish()

    contenders: dict[str, Callable[[], object]] = {
        "decode_xrt": lambda: compression.decode(codes, None),
        "stream_xrt": streamed,
        "encode_xrt": lambda: compression.encode(wave),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(plan.rounds + 1):
        for name, call in contenders.items():
            begun = _settled(model.device)
            call()
            if turn:
                times[name].append(_settled(model.device) - begun)
    return {name: plan.codec_s / statistics.median(found) for name, found in times.items()}


def release(model: BaseGenModel) -> None:
    """Let go of the weights that were prepared for a precision."""
    model.lm.prepared.clear()
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)
    elif sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def memory_bytes(model: BaseGenModel) -> int:
    """What this process holds now (its highest, on a GPU and where the present cannot be asked)."""
    if model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(model.device))
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
