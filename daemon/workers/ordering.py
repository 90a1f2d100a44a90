"""From a request and its audio to what the model is asked for, and to the shape of what the host gets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr

from daemon.workers.closing import FADE_S, HOLD_S, Closing
from daemon.workers.interface import ModelFacts, Order, PlayerError, Samples
from daemon.workers.render import HostShape, model_frames, to_model, trimmed_frames, with_channels
from daemon.workers.sounds import Sounds, context, from_start
from protocol.audio import AudioFormat
from protocol.fields import fraction
from protocol.submit import Submit

AHEAD_S = (
    0.5  # a loop that begins from nothing: so long the model plays before it, to be in the music by then
)
_HOLD_RANGE_S = (1.0, 4.0)


@dataclass(frozen=True)
class Plan:
    """`wanted`: names of the stems to deliver; `ignored`: what was asked for and the model cannot do; `lead`:
    host samples from the request's seam to the take's first sample.
    """

    order: Order
    host: HostShape
    wanted: tuple[str, ...]
    ignored: tuple[str, ...]
    lead: int
    following: Samples | None  # at the host's rate, for the level of a gap's end
    hold_s: float
    loop: bool
    match: bool
    period: int | None  # model samples of the bar before the seam
    recording: Samples | None  # the prompt as the host has it

    def closing(self) -> Closing | None:
        """A fresh end for one variation, where it has to meet something."""
        if not self.loop and self.following is None:
            return None
        return Closing(
            self.host.rate, self.host.frames, self.host.tail, loop=self.loop, following=self.following,
            hold_s=self.hold_s, match=self.match,
        )  # fmt: skip


def plan(submit: Submit, spec: dict[str, Any], sounds: Sounds, facts: ModelFacts, chunk_frames: int) -> Plan:
    """Raises `PlayerError` for what this model cannot do."""
    made, given, wanted = _stems(submit, spec, facts)
    rate, frames = int(spec["rate"]), int(spec["frames"])
    lead, tail = int(spec.get("lead", 0)), int(spec.get("tail", 0))
    recording, prompt, whole = _prompt(submit, spec, sounds, facts)
    ahead = round(AHEAD_S * rate) if submit.loop and prompt is None else 0
    host = HostShape(
        rate, int(spec["channels"]), frames, round(submit.handle_ms * rate / 1000),
        lead=lead + ahead, tail=tail, hidden=ahead, kept=round(FADE_S * rate) if submit.loop else 0,
    )  # fmt: skip

    def at_model(host_frames: int) -> int:
        return round(Fraction(host_frames * facts.rate, rate))

    before = at_model(ahead) if prompt is None else prompt.shape[1]
    heard = context(sounds, facts, before, whole)
    following, following_at = None, 0
    for audio, samples in sounds.of("following")[:1]:
        following = samples if audio.rate == rate else _resampled(samples, audio.rate, rate)
        if audio.position is None:
            following_at = at_model(lead + ahead + frames)
        else:
            following_at = at_model(ahead) + round(Fraction(audio.position * facts.rate, audio.rate))
    hears = "context" in facts.conditions and following is not None
    source = _source(sounds, facts, at_model(ahead)) if submit.mode == "vary" else None
    order = Order(
        mode=submit.mode,
        frames=model_frames(host, facts),
        prompt=prompt,
        context=heard if "context" in facts.conditions else None,
        text=submit.text or None,
        negative_text=submit.negative_text or None,
        seed=int(spec["seed"]),
        variations=submit.variations,
        sampling=submit.sampling.to_map(),
        guidance=submit.guidance.to_map(),
        tempo_map=submit.tempo_map,
        harmony=submit.harmony,
        stems=made,
        chunk_frames=chunk_frames,
        given=given,
        source=source,
        strength=submit.strength,
        following=_follows(sounds, facts) if hears and following_at >= 0 else None,
        following_at=max(0, following_at),
        heard_from=-(-at_model(host.after_seam) // facts.hop),
        ahead_s=Fraction(ahead, rate),
    )
    present = {
        "context": heard is not None,
        "following": following is not None,
        "transport": submit.tempo_map is not None,
        "harmony": submit.harmony is not None,
        "description": bool(submit.text),
    }
    needs = {"following": "context"}
    ignored = tuple(
        name for name, there in present.items() if there and needs.get(name, name) not in facts.conditions
    )
    met = following if submit.mode == "fill" else None
    hold_s = _hold_s(submit)
    return Plan(
        order, host, wanted, ignored, lead,
        None if met is None else with_channels(met[:, : round(hold_s * rate)], host.channels),
        hold_s, submit.loop, submit.level == "match", _period(submit, facts), recording,
    )  # fmt: skip


def _period(submit: Submit, facts: ModelFacts) -> int | None:
    """How long the bar before the seam is, in the model's samples."""
    tempo = submit.tempo_map
    if tempo is None:
        return None
    start = fraction(tempo.start)
    before = tempo.quarters_at_bars(tempo.bars_at(start) - 1)
    return round((tempo.seconds_at(start) - tempo.seconds_at(before)) * facts.rate) or None


def _hold_s(submit: Submit) -> float:
    """Over how long the level of an end is measured: a bar, where there are any."""
    if submit.tempo_map is None:
        return HOLD_S
    low, high = _HOLD_RANGE_S
    return min(high, max(low, float(submit.tempo_map.seconds_of_bars(Fraction(1)))))


def _stems(
    submit: Submit, spec: dict[str, Any], facts: ModelFacts
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The stems that the model makes, those that are given, and those (with "mix") that are delivered."""
    possible = (*facts.stems, *(() if "mix" in facts.stems else ("mix",)))
    unknown = [name for name in submit.stems or () if name not in possible]
    if unknown:
        raise PlayerError(
            "E_ARGUMENT",
            f'The model {facts.name} has no stem "{unknown[0]}"; it has {", ".join(possible)}.',
            field="stems",
            value=unknown[0],
            allowed=", ".join(possible),
        )
    wanted = tuple(dict.fromkeys(submit.stems)) if submit.stems else possible
    if submit.mode != "accompany":
        return facts.stems, (), wanted
    if "context" not in facts.conditions:
        raise PlayerError(
            "E_MODEL",
            f"The model {facts.name} does not listen to other tracks, so it cannot accompany them; pocket"
            " does.",
            field="model",
            value=facts.name,
            allowed='a model with "context" among its conditions',
        )
    formats = [AudioFormat.from_map(entry) for entry in spec["audio"]]
    there = {found.stem for found in formats if found.role == "context" and found.stem}
    asked = [name for name in submit.stems or () if name in facts.stems]
    made = tuple(name for name in facts.stems if (name in asked if asked else name not in there))
    if not made:
        raise PlayerError(
            "E_ARGUMENT",
            f"The tracks are all that {facts.name} can play ({', '.join(facts.stems)}), so nothing is"
            " missing; leave one out, or name the stems to play.",
            field="stems",
            allowed=", ".join(facts.stems),
        )
    delivered = wanted if submit.stems else (*made, *(() if "mix" in made else ("mix",)))
    return made, tuple(name for name in facts.stems if name not in made), delivered


def _prompt(
    submit: Submit, spec: dict[str, Any], sounds: Sounds, facts: ModelFacts
) -> tuple[Samples | None, Samples | None, int]:
    """What is heard before the seam, at its own rate and at the model's, and how many model samples of it
    there were in the request.
    """
    if submit.mode == "generate":
        return None, None, 0
    for audio, samples in sounds.of("prompt")[:1]:
        keep = round(facts.max_prompt_s * audio.rate)
        samples = samples[:, max(0, samples.shape[1] - keep) :]
        samples = samples[:, trimmed_frames(samples.shape[1], audio.rate, facts) :]
        heard = to_model(samples, audio.rate, facts)
        return samples, heard, round(spec["prompt_frames"] * facts.rate / audio.rate)
    return None, None, 0


def _source(sounds: Sounds, facts: ModelFacts, ahead: int) -> Samples | None:
    """What is varied, its beginning at the order's seam; with `ahead` model samples of its end before it, for
    that is what sounds before the beginning of a loop.
    """
    for audio, samples in sounds.of("source")[:1]:
        own = from_start(samples, audio.rate, facts)
        times = -(-ahead // own.shape[1])
        before = np.tile(own, (1, times))[:, times * own.shape[1] - ahead :]
        return np.ascontiguousarray(np.concatenate([before, own], axis=1))
    return None


def _follows(sounds: Sounds, facts: ModelFacts) -> Samples | None:
    for audio, samples in sounds.of("following")[:1]:
        keep = round(facts.max_prompt_s * audio.rate)
        return from_start(samples[:, :keep], audio.rate, facts)
    return None


def _resampled(samples: Samples, rate: int, to: int) -> Samples:
    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(samples.T), rate, to).T, dtype=np.float32)


__all__ = ["AHEAD_S", "Plan", "plan"]
