"""The seam: prompts of many tempi, rates and levels are continued by pocket through the daemon and joined as
a host joins them, at equal power over the handle. Nothing may click, and the level may not jump.

Per prompt, measured on the joined audio as a host would keep it:

* `click_db`: energy above 6 kHz in the loudest 2 ms within 10 ms of either end of the crossfade, against that
  of the loudest 2 ms of the prompt (its loudest onset). 0 dB or less: no click.
* `level_db`: level of the take's own version of the prompt's last moments (the handle) against the recording
  of the same moments: the same beats, so what differs is the level and not the music. Where the take plays
  nothing in them (a rest, more than 20 dB below) there is no level to compare: `rests` counts these, and the
  recording alone is faded out.
* `across_db`: level of the second after the seam against the second before. Music changes from second to
  second; this one is told, not judged.

The prompts are synthesised here (drums, bass, chords with a tempo and a key), because a sound font is not on
every machine.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from tests.daemon.house import House, Wire, joined

OF_ALL = False  # it judges sound, not speed, and takes minutes
COUNT, NEW_S, PROMPT_S = 50, 1.2, 4.0
REST_DB, FLOOR_DB = 20.0, 45.0  # below the recording; below the prompt: nothing to be heard
RATES = (44_100, 48_000, 32_000, 96_000, 22_050)
LEVELS_DB = (-14.0, -20.0, -26.0, -32.0)
Audio = NDArray[np.float64]  # [n]


@dataclass(frozen=True)
class Prompt:
    """A synthesised prompt that ends on a bar line."""

    audio: Audio
    rate: int
    bpm: int
    beats: int

    @property
    def tempo_map(self) -> m.TempoMap:
        return m.TempoMap(changes=(m.TempoChange(at=0, bpm=self.bpm, beats=self.beats),))


def prompt(number: int) -> Prompt:
    """Prompt `number`: drums, bass and chords; everything about it follows from the number."""
    dice = np.random.default_rng(9000 + number)
    rate, bpm = RATES[number % len(RATES)], int(dice.integers(70, 171))
    beats = int(dice.choice([4, 4, 3, 6]))
    count = round(PROMPT_S * rate)
    sixteenth = 15 / bpm
    made = np.zeros(count)

    def add(at_s: float, wave: Audio) -> None:
        start = count + round(at_s * rate)
        if start >= 0:
            made[start : start + len(wave)] += wave[: max(0, count - start)]

    def note(hz: float, seconds: float, harmonics: int) -> Audio:
        time = np.arange(round(seconds * rate)) / rate
        wave = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, harmonics + 1))
        return np.asarray(wave * np.exp(-time / (0.4 * seconds)) * np.minimum(1, time * 200))

    def hit(low: bool) -> Audio:
        time = np.arange(round(0.12 * rate)) / rate
        if low:
            return np.sin(2 * np.pi * (50 * time - 8 * np.exp(-time * 30))) * np.exp(-time * 25)
        noise = np.diff(dice.standard_normal(len(time) + 1))
        return 0.4 * noise * np.exp(-time * dice.choice([40, 90]))

    root = 110 * 2 ** (dice.integers(-5, 7) / 12)
    chord = [1, 2 ** (dice.choice([3, 4]) / 12), 2 ** (7 / 12)]
    steps = int(PROMPT_S / sixteenth) + 1
    pattern = dice.random((3, 4 * beats))
    for step in range(-steps, 0):
        at, place = step * sixteenth, step % (4 * beats)
        if place % 8 == 0 or pattern[0, place] > 0.85:
            add(at, 0.9 * hit(low=True))
        if place % 2 == 0 or pattern[1, place] > 0.7:
            add(at, hit(low=False) * (1.6 if place % 8 == 4 else 0.5))
        if pattern[2, place] > 0.6:
            add(at, 0.5 * note(root / 2, 2 * sixteenth, 6))
        if place % 16 == 0:
            for interval in chord:
                add(at, 0.25 * note(root * 2 * interval, 12 * sixteenth, 4))
    made *= 10 ** (LEVELS_DB[number % len(LEVELS_DB)] / 20) / max(1e-9, float(np.std(made)))
    return Prompt(made, rate, bpm, beats)


def high_energy(audio: Audio, rate: int) -> Audio:
    """Energy above 6 kHz (or a third of the rate) in windows of 2 ms, one for each millisecond."""
    cut = min(6000.0, rate / 3)
    spectrum = np.fft.rfft(audio)
    spectrum[: int(cut * len(audio) / rate)] = 0
    power = np.concatenate([[0.0], np.cumsum(np.fft.irfft(spectrum, len(audio)) ** 2)])
    window, hop = round(0.002 * rate), rate / 1000
    starts = (np.arange(int((len(audio) - window) / hop)) * hop).astype(int)
    return np.asarray(power[starts + window] - power[starts])


def level_db(audio: Audio) -> float:
    """Root mean square in dB."""
    return 10 * math.log10(float(np.mean(np.square(audio))) + 1e-20)


def click_db(audio: Audio, rate: int, splices: list[int], onsets: Audio) -> float:
    """The loudest 2 ms above 6 kHz near any splice (samples), against the loudest in `onsets`."""
    energy, loudest = high_energy(audio, rate), float(high_energy(onsets, rate).max())
    near = [energy[max(0, round(1000 * at / rate) - 11) : round(1000 * at / rate) + 10] for at in splices]
    return 10 * math.log10(max(float(part.max()) for part in near) / loudest + 1e-20)


def crossfaded(out: Audio, into: Audio) -> Audio:
    """Equal power, as hosts do it."""
    angle = (np.arange(len(out)) + 0.5) / len(out) * np.pi / 2
    return np.asarray(out * np.cos(angle) + into * np.sin(angle))


def measured(house: House, number: int) -> dict[str, float]:
    """One prompt, continued and judged."""
    with house.client() as wire:
        return heard(wire, number)


def heard(wire: Wire, number: int) -> dict[str, float]:
    """The same over a connection that is there."""
    given = prompt(number)
    form = AudioFormat(rate=given.rate, channels=1, frames=len(given.audio), role="prompt")
    block = AudioBlock(form, given.audio.astype("<f4").tobytes())
    request = m.Submit(
        key=secrets.token_bytes(16), mode="continue", length=m.Length(seconds=NEW_S), seed=number,
        tempo_map=given.tempo_map, stems=("mix",),
    ).with_audio([block])  # fmt: skip
    events = wire.events(wire.ask(request).job, wait_s=300)
    if events[-1].event != "done":
        raise AssertionError(f"prompt {number}: {events[-1]}")
    start, samples = joined(events)
    made = samples[0].astype(np.float64)
    handle, take = made[:-start], made[-start:]
    tail = given.audio[start:]
    whole = np.concatenate([given.audio[:start], crossfaded(tail, handle), take])
    seam, second = len(given.audio), given.rate
    floor = level_db(given.audio) - FLOOR_DB

    def loud(part: Audio) -> float:
        return max(floor, level_db(part))

    level = events[-1].manifest["takes"][0]["level"]
    return {
        "rate": given.rate,
        "bpm": given.bpm,
        "click_db": click_db(whole, given.rate, [seam + start, seam], given.audio),
        "level_db": loud(handle) - loud(tail),
        "rest": loud(tail) - loud(handle) > REST_DB,
        "across_db": level_db(take[:second]) - level_db(given.audio[-second:]),
        "gain_db": float(level["applied_db"]),
    }


def run(args: Any) -> dict[str, Any]:
    """`args.rounds` scales how many prompts there are; 3 is all of them."""
    count = max(2, round(COUNT * args.rounds / 3))
    house = House("worker.threads=1", model="pocket", real=True).start()
    try:
        prompts = {str(number): measured(house, number) for number in range(count)}
    finally:
        house.close()
    names = ("click_db", "level_db", "across_db")
    worst = {name: max(found[name] for found in prompts.values()) for name in names}
    playing = [found for found in prompts.values() if not found["rest"]]
    worst["level_db"] = max(abs(found["level_db"]) for found in playing)
    across = [found["across_db"] for found in prompts.values()]
    return {
        "prompts": prompts,
        "worst": worst | {"across_db_median": float(np.median(across))},
        "clicks": sum(found["click_db"] > 0 for found in prompts.values()),
        "jumps": sum(abs(found["level_db"]) > 1 for found in playing),
        "rests": len(prompts) - len(playing),
    }


def table(result: dict[str, Any]) -> str:
    """A line for each prompt and one for the worst."""
    names = ("rate", "bpm", "click_db", "level_db", "across_db", "gain_db")
    lines = ["prompt " + "".join(f"{name:>11}" for name in names)]
    for number, found in result["prompts"].items():
        lines.append(f"{number:>6} " + "".join(f"{found[name]:11.2f}" for name in names))
    lines.append(f"worst: {', '.join(f'{name} {value:.2f}' for name, value in result['worst'].items())}")
    counts = f"clicks {result['clicks']}, jumps of level above 1 dB {result['jumps']}"
    lines.append(f"{counts}, rests {result['rests']}")
    return "\n".join(lines)
