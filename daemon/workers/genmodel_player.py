"""genmodel behind the worker's interface: requests to its engine, its chunks to pieces.

Runs only inside a worker process; importing this file imports torch.
"""

from __future__ import annotations

import platform
from collections.abc import Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import soxr
import torch

from daemon.tokens import TokenFrames
from daemon.workers.interface import Failure, ModelFacts, Order, Piece, PlayerError, Progress, Samples
from daemon.workers.past import ResumeRefused
from genmodel import measured
from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine, GenerationJob, TokensDiffer
from genmodel.errors import GenModelError
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap
from protocol.harmony import Chord
from protocol.tempo import TempoMap as WireTempoMap
from protocol.tempo import fraction

_TOKEN = np.dtype("<u2")  # codebooks have far fewer entries


def load(model: str, *, device: str, precision: str, slots: int, capture: str = "auto") -> GenModelPlayer:
    """A player with its model in memory; raises `PlayerError` when the model cannot be had."""
    try:
        made = BaseGenModel.get_pretrained(model, None if device == "auto" else device)
        why = "asked for"
        if precision == "auto":
            choice = measured.choose(made)
            precision, why = choice.precision, choice.why
        made.precision, made.capture = precision, capture
        return GenModelPlayer(made, slots, why)
    except GenModelError as error:
        raise player_error(error) from error


def player_error(error: GenModelError) -> PlayerError:
    """A refusal of the model layer as one sentence with its fields."""
    said = str(error).strip().rstrip(".")
    shown = error.value if isinstance(error.value, (str, int, float, bool, type(None))) else str(error.value)
    more = {"field": error.field, "value": shown, "allowed": error.allowed}
    return PlayerError(
        error.code, f"{said[:1].upper()}{said[1:]}.", **{k: v for k, v in more.items() if v is not None}
    )


def tempo_map(wire: WireTempoMap) -> TempoMap:
    """The host's tempo map in the model layer's terms; both count quarter notes."""
    changes = tuple(
        TempoChange(fraction(change.at), fraction(change.bpm), change.beats, change.unit, change.mid_bar)
        for change in wire.changes
    )
    return TempoMap(changes, fraction(wire.start))


def chroma(chords: Sequence[Chord], tempo: TempoMap, frames: int, frame_s: Fraction) -> torch.Tensor:
    """Chords as chroma, float32 [frames, 12]: 1 for the notes of the chord that holds at a frame's middle."""
    placed = sorted(((fraction(chord.at), chord.notes) for chord in chords), key=lambda entry: entry[0])
    made = torch.zeros(frames, 12)
    for frame in range(frames):
        at = tempo.beats_at((frame + Fraction(1, 2)) * frame_s)
        for pitch in next((notes for start, notes in reversed(placed) if start <= at), ()):
            made[frame, pitch] = 1.0
    return made


class GenModelPlayer:
    """One loaded model with its engine. Owned by the worker's thread."""

    def __init__(self, model: BaseGenModel, slots: int, precision_why: str = "asked for") -> None:
        self._model = model
        self._engine = Engine(model, slots)
        self._told: dict[tuple[int, int], int] = {}  # frames of (job, variation) that `made` has given
        about = model.info()
        self.facts = ModelFacts(
            name=model.name,
            rate=int(model.sample_rate),
            channels=model.audio_channels,
            hop=model.compression_model.hop_samples,
            stems=model.stems,
            conditions=model.conditions,
            device=_device_name(model.device),
            precision=self._engine.precision,
            precision_why=precision_why,
            sha256=about["sha256"] or "",
            licence=about["licence"] or "",
            max_prompt_s=model.max_duration,
            more={"parameters": about["parameters"], "defaults": _choices(model.default_sampling)},
        )

    def identity(self, order: Order) -> dict[str, Any] | None:
        """Equal where the same order gives the same bits: weights, precision, and what multiplies them; the
        first thing that differs is told.
        """
        kernels = self._engine.kernels
        return {
            "model": self.facts.name,
            "weights": self.facts.sha256,
            "precision": self.facts.precision,
            **({"kernels": kernels} if kernels else {}),
            "device": self.facts.device,
            "torch": torch.__version__,
            "threads": torch.get_num_threads() if self._model.device.type == "cpu" else 0,
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "resampler": soxr.__version__,
        }

    def made(self, ticket: Hashable) -> Sequence[TokenFrames]:
        if not isinstance(ticket, GenerationJob):
            raise TypeError("not a ticket of this player")
        found = []
        for variation, take in enumerate(ticket.takes):
            start, stop = self._told.get((ticket.id, variation), take.first), take.pushed
            if stop > start:
                tokens = take.session.tokens[:, start:stop].T.cpu().numpy().astype(_TOKEN)
                found.append(TokenFrames(variation, start, stop - start, tokens.tobytes()))
                self._told[ticket.id, variation] = stop
        return found

    def add(self, order: Order, made: Sequence[TokenFrames] = ()) -> GenerationJob:
        """Raises `PlayerError` for what this model cannot do, `ResumeRefused` where `made` is not its own."""
        try:
            job = self._engine.add(self._request(order))
        except GenModelError as error:
            raise player_error(error) from error
        try:
            self._engine.resume(job, [_tokens(job, variation, made) for variation in range(order.variations)])
        except (GenModelError, ValueError) as error:
            self._engine.drop(job)
            raise ResumeRefused(str(error)) from error
        return job

    def _request(self, order: Order) -> GenerationRequest:
        tempo = None if order.tempo_map is None else tempo_map(order.tempo_map)
        if tempo is not None and order.ahead_s:
            tempo = replace(tempo, start_beats=tempo.beats_at(-order.ahead_s))
        harmony = None
        if order.harmony and tempo is not None and "harmony" in self.facts.conditions:
            harmony = chroma(order.harmony, tempo, order.frames, Fraction(self.facts.hop, self.facts.rate))
        hears_text = "description" in self.facts.conditions
        return GenerationRequest(
            mode="generate" if order.prompt is None else "continue",
            frames=order.frames,
            prompt=self._clip(order.prompt),
            text=order.text if hears_text else None,
            negative_text=order.negative_text if hears_text else None,
            seed=order.seed,
            variations=order.variations,
            sampling=self._sampling(order),
            tempo_map=tempo,
            harmony=harmony,
            context=self._clip(order.context),
            stems=order.stems,
            chunk_frames=order.chunk_frames,
            given=order.given,
            source=self._clip(order.source),
            strength=order.strength,
            following=self._clip(order.following),
            following_s=Fraction(order.following_at, self.facts.rate),
            heard_from=order.heard_from,
        )

    def _sampling(self, order: Order) -> Sampling:
        """What the request names, and the model's own choice for the rest."""
        given = {
            name: value for name, value in {**order.sampling, **order.guidance}.items() if value is not None
        }
        if "top_k" in given:
            given.setdefault("top_p", 0.0)
        return replace(self._model.default_sampling, **given)

    def _clip(self, samples: Samples | None) -> AudioClip | None:
        return None if samples is None else AudioClip(torch.from_numpy(samples), self.facts.rate)

    def step(self) -> Sequence[Piece | Failure]:
        found: list[Piece | Failure] = []
        for job, chunk in self._engine.step():
            if chunk is None:
                error = job.error or GenModelError("the model gave up on this request", code="E_NOT_FINITE")
                refused = isinstance(error, TokensDiffer)
                found.append(Failure(job, ResumeRefused(str(error)) if refused else player_error(error)))
            else:
                samples = np.ascontiguousarray(chunk.samples.numpy(), dtype=np.float32)
                found.append(Piece(job, chunk.variation, chunk.stem, chunk.position, samples, chunk.last))
        return found

    def drop(self, ticket: Hashable) -> None:
        if isinstance(ticket, GenerationJob):
            self._engine.drop(ticket)
            for variation in range(len(ticket.takes)):
                self._told.pop((ticket.id, variation), None)

    def progress(self, ticket: Hashable) -> Progress:
        if not isinstance(ticket, GenerationJob):
            raise TypeError("not a ticket of this player")
        under_way = ticket.state in ("waiting", "prefill", "generating")
        state = ticket.state if under_way and ticket.steps_done < ticket.steps_total else "decoding"
        return Progress(state, ticket.steps_done, ticket.steps_total)

    def remarks(self, order: Order) -> dict[str, Any]:
        """Words of the text that the model does not know, where it can tell."""
        conditioners = self._model.lm.condition_provider.conditioners
        words: Any = conditioners["description"] if "description" in conditioners else None
        if order.text and hasattr(words, "unknown_words"):
            unknown = list(words.unknown_words(order.text))
            return {"unknown_words": unknown} if unknown else {}
        return {}

    @property
    def busy(self) -> bool:
        return self._engine.busy


def _tokens(job: GenerationJob, variation: int, made: Sequence[TokenFrames]) -> torch.Tensor:
    """The frames of one variation, int64 [K, n]. Raises `ValueError` when they are not this job's."""
    books, first = job.takes[variation].session.tokens.shape[0], job.takes[variation].first
    for part in made:
        if part.variation == variation:
            if part.frame_bytes != books * _TOKEN.itemsize or part.start != first:
                raise ValueError("the tokens made before belong to another request")
            rows = np.frombuffer(part.data, _TOKEN).reshape(part.count, books).T
            return torch.from_numpy(rows.astype(np.int64))
    return torch.zeros(books, 0, dtype=torch.int64)


def _choices(sampling: Sampling) -> dict[str, Any]:
    """What the manifest needs, beside the request, to make a take again."""
    names = ("use_sampling", "temperature", "top_k", "top_p", "cfg_coef")
    return {name: getattr(sampling, name) for name in names}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda:{device.index or 0} {torch.cuda.get_device_name(device)}"
    return device.type
