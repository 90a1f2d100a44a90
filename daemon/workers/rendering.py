"""One job inside the worker: its request and audio become an `Order`, the model's pieces become chunks and
files.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from daemon import takes
from daemon.tokens import TokenFrames, frames_note, identity_note
from daemon.workers.interface import ModelFacts, Order, Piece, PlayerError, Samples
from daemon.workers.loudness import integrated_lufs
from daemon.workers.ordering import plan
from daemon.workers.past import Past, ResumeRefused, SpoolReader
from daemon.workers.render import VariationRender
from daemon.workers.sounds import Sounds
from protocol.build import build_id
from protocol.submit import Submit

_NEARLY = 0.8  # of a chunk is enough: a resampler gives now a little less, now a little more
_MAX_CHUNK_FRAMES = 262_144  # two channels of float32 stay below half a wire frame


class Stopped(Exception):
    """A take was dropped while its files were written."""


class Rendering:
    """Owned by the worker's loop from `start` until done, failed or dropped."""

    def __init__(
        self,
        message: dict[str, Any],
        facts: ModelFacts,
        identify: Callable[[Order], dict[str, Any] | None] = lambda order: None,
    ) -> None:
        """`message` is the front-end's "start"; `identify` says what the order's bits depend on (None: it
        cannot be continued). Raises `PlayerError` or `SegueError` for what cannot be done, `ResumeRefused`
        when it cannot go on where the earlier attempts stopped.
        """
        self.job, self.attempt = int(message["job"]), int(message["attempt"])
        self.ticket: Hashable = None
        self.remarks: dict[str, Any] = {}
        self.stopped = False  # set from another thread while `finish` is at work
        self._facts = facts
        self._spec = message["spec"]
        self._spool_folder, self.take_folder = Path(message["spool"]), Path(message["takes"])
        self._chunk_s = float(message["chunk_s"])
        submit = Submit.from_map(self._spec["request"])
        self._rate, self._channels = int(self._spec["rate"]), int(self._spec["channels"])
        self._frames = int(self._spec["frames"])
        sounds = Sounds(self._spool_folder, self._spec)
        self._plan = plan(submit, self._spec, sounds, facts, self._chunk_frames())
        self._wanted, self.order = self._plan.wanted, self._plan.order
        identity = identify(self.order)
        if identity is not None:
            identity |= {"build": build_id(), "request": zlib.crc32(msgpack.packb(self._spec))}
        self._open(message.get("resume") or (), identity)
        host, made = self._plan.host, self.order.stems or facts.stems
        self._variations = [
            VariationRender(
                facts,
                host,
                made,
                self._wanted,
                self.order.prompt,
                self._plan.match,
                self._plan.closing(),
                self._plan.period,
                self._plan.recording,
                self.order.source,
            )
            for _ in range(submit.variations)
        ]
        self._placed: dict[tuple[int, str], list[tuple[takes.SpoolWriter | SpoolReader, takes.Placed]]] = {}
        self._back: list[takes.Placed] = []  # new chunks, until all that was announced has come again
        self._held: dict[tuple[int, str], list[tuple[int, Samples]]] = {}
        self._made: dict[tuple[int, str], int] = {}
        self._begun = time.monotonic()
        self.first_audio_s: float | None = None

    def _open(self, announced: Sequence[dict[str, Any]], identity: dict[str, Any] | None) -> None:
        """The files of earlier attempts and this one's."""
        self._past: Past | None = None
        with contextlib.ExitStack() as undo:
            if announced:
                self._past = Past(self._spool_folder, announced, identity)
                undo.callback(self._past.close)
                self._chunk_s = self._past.chunk_s or self._chunk_s  # chunks are cut as they were
                self.order = replace(self.order, chunk_frames=self._chunk_frames())
            self._spool = takes.SpoolWriter(self._spool_folder / f"{self.attempt}.pcm")
            undo.callback(self._spool.close)
            if identity is not None:
                self._spool.append_note(identity_note({**identity, "chunk_s": self._chunk_s}))
            undo.pop_all()

    def _chunk_frames(self) -> int:
        return max(1, round(self._chunk_s * self._facts.rate / self._facts.hop))

    @property
    def recalled(self) -> Sequence[TokenFrames]:
        """The tokens that earlier attempts left."""
        return self._past.frames if self._past else ()

    # ---- audio ----

    def note(self, frames: Iterable[TokenFrames]) -> None:
        """Put down the tokens that the next pieces come from."""
        for part in frames:
            self._spool.append_note(frames_note(part))

    def take(self, piece: Piece) -> list[takes.Placed]:
        """Convert a piece and append what is due to the spool; the caller syncs before telling anyone.

        Returns what may be told. Raises `ResumeRefused` when audio that was told does not come out again.
        """
        self._back += self._taken(piece)
        if self._past is not None and not self._past.met:
            return []
        fresh, self._back = self._back, []
        return fresh

    def _taken(self, piece: Piece) -> list[takes.Placed]:
        render = self._variations[piece.variation]
        placed: list[takes.Placed] = []
        for stem, position, samples in render.push(piece.stem, piece.position, piece.samples, piece.last):
            self._held.setdefault((piece.variation, stem), []).append((position, samples))
            placed += self._flush(piece.variation, stem, everything=render.finished)
        if render.finished:
            for stem in self._wanted:
                placed += self._flush(piece.variation, stem, everything=True)
        return placed

    def _flush(self, variation: int, stem: str, *, everything: bool) -> list[takes.Placed]:
        """Write what is held when it is the first audio, long enough, or the end. Chunks never cross the
        take's beginning or end.
        """
        held = self._held.get((variation, stem), [])
        count = sum(samples.shape[1] for _, samples in held)
        begun = (variation, stem) in self._placed
        if not count or not (everything or not begun or count >= _NEARLY * self._chunk_s * self._rate):
            return []
        position = held[0][0]
        joined = np.concatenate([samples for _, samples in held], axis=1)
        self._held[(variation, stem)] = []
        edges = {edge - position for edge in (0, self._frames)}
        cuts = sorted({0, joined.shape[1], *(edge for edge in edges if 0 < edge < joined.shape[1])})
        placed = []
        for low, high in zip(cuts, cuts[1:], strict=False):
            for start in range(low, high, _MAX_CHUNK_FRAMES):
                stop = min(high, start + _MAX_CHUNK_FRAMES)
                placed += self._append(variation, stem, position + start, joined[:, start:stop])
        return placed

    def _append(self, variation: int, stem: str, position: int, samples: Samples) -> list[takes.Placed]:
        """Write a chunk, unless an earlier attempt has; the list is empty then."""
        frames = samples.shape[1]
        chunk = takes.Chunk(
            self.attempt, variation, self._wanted.index(stem), position, frames, self._rate, self._channels
        )
        data = np.ascontiguousarray(samples.T, dtype="<f4").tobytes()
        twin = self._past.meet(chunk, zlib.crc32(data)) if self._past is not None else None
        placed = [] if twin is not None else [self._spool.append(chunk, data)]
        self._placed.setdefault((variation, stem), []).append(twin or (self._spool, placed[0]))
        self._made[(variation, stem)] = max(0, position + frames)
        if self.first_audio_s is None and position + frames > 0:
            self.first_audio_s = time.monotonic() - self._begun
        return placed

    def sync(self) -> None:
        self._spool.sync()

    def announcement(self, placed: takes.Placed) -> dict[str, Any]:
        """What the front-end journals about a chunk."""
        chunk = placed.chunk
        return {
            "variation": chunk.variation,
            "stem": self._wanted[chunk.stem],
            "position": chunk.position,
            "frames": chunk.frames,
            "crc": placed.crc,
            "rate": chunk.rate,
            "channels": chunk.channels,
            "place": placed.place,
            "bytes": placed.total_bytes,
        }

    @property
    def samples_made(self) -> int:
        """New host samples that every variation and stem has."""
        wanted = len(self._wanted) * len(self._variations)
        made = min(self._made.values(), default=0) if len(self._made) == wanted else 0
        return min(made, self._frames)

    @property
    def complete(self) -> bool:
        return all(render.finished for render in self._variations)

    # ---- the end ----

    def finish(self) -> dict[str, Any]:
        """Write WAV files and the manifest; returns the manifest. Raises `PlayerError` when samples are
        missing, `Stopped` when it was dropped meanwhile.
        """
        if self._past is not None and not self._past.met:
            raise ResumeRefused("less audio came out than was announced before")
        self.take_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reports = []
        for variation, render in enumerate(self._variations):
            figures = render.report()
            files = [
                entry
                for stem in self._wanted
                for entry in self._write(variation, stem, render.handle_frames, figures[stem])
            ]
            report = {"variation": variation, "level": render.level, "files": files}
            if render.ending is not None:
                report["ending"] = render.ending
            reports.append(report)
        elapsed = time.monotonic() - self._begun
        facts, request = self._facts, self._spec["request"]
        manifest = {
            "job": str(self.job),
            "attempt": self.attempt,
            "seed": self._spec["seed"],
            "rate": self._rate,
            "channels": self._channels,
            "frames": self._frames,
            "handle_frames": self._variations[0].handle_frames,
            "tail_frames": self._plan.host.tail,
            "lead_frames": self._plan.lead,
            "stems": list(self._wanted),
            "model": {"name": facts.name, "sha256": facts.sha256, "licence": facts.licence, **facts.more},
            "device": facts.device,
            "precision": facts.precision,
            "precision_why": facts.precision_why,
            "takes": reports,
            "ignored": list(self._plan.ignored),
            "remarks": self.remarks,
            "times": {
                "render_s": round(elapsed, 3),
                "first_audio_s": None if self.first_audio_s is None else round(self.first_audio_s, 3),
                "xrt": round(self._frames / self._rate / elapsed, 3) if elapsed > 0 else None,
            },
            "loudness": "lufs: integrated, ITU-R BS.1770-4, ungated below 0.4 s; rms_db: all samples",
        }
        asked = {**request, "key": request["key"].hex(), "session": _hex(request.get("session"))}
        settings = self._settings(facts)
        whole = {**manifest, "settings": settings, "request": asked, "audio": self._spec["audio"]}
        takes.write_manifest(self.take_folder, whole, self._spool_folder / takes.RESERVE_NAME)
        return manifest | _fitting(settings)

    def _settings(self, facts: ModelFacts) -> dict[str, Any]:
        """The request as it was asked for, nothing left to be drawn or taken over: what makes the same take
        again, or another one.
        """
        request = self._spec["request"]
        own = {name: value for name, value in request.items() if name not in ("key", "session", "project")}
        asked = Submit.from_map(request)
        silent = {field.key: getattr(asked, name) for name, field in Submit.WIRE.items() if field.later}
        names = ("seed", "rate", "channels")
        return silent | own | {"model": facts.name} | {name: self._spec[name] for name in names}

    def _write(
        self, variation: int, stem: str, handle_frames: int, figures: dict[str, float | None]
    ) -> list[dict[str, Any]]:
        """Handle, take and tail of one stem as files; their entries for the manifest."""
        placed = self._placed.get((variation, stem), [])
        entries: list[dict[str, Any]] = []
        end, tail = self._frames, self._plan.host.tail
        for part, low, high in (("handle", -handle_frames, 0), ("take", 0, end), ("tail", end, end + tail)):
            frames = high - low
            chunks = [found for found in placed if part == self._part(found[1].chunk.position)]
            got = sum(found.chunk.frames for _, found in chunks)
            if got != frames:
                raise PlayerError(
                    "E_INTERNAL", f"The model made {got} of {frames} samples of {stem} ({part})."
                )
            if not frames:
                continue
            name = takes.wav_name(variation, stem, part)
            pieces = self._pieces(chunks)
            size, crc = takes.write_wav(
                self.take_folder / name, pieces, rate=self._rate, channels=self._channels, frames=frames,
                reserve=self._spool_folder / takes.RESERVE_NAME,
            )  # fmt: skip
            entry: dict[str, Any] = {"name": name, "stem": stem, "part": part, "position": low}
            entry |= {"frames": frames, "bytes": size, "crc": crc}
            if part == "take":
                audio = np.concatenate([np.frombuffer(piece, "<f4") for piece in self._pieces(chunks)])
                loudness = integrated_lufs(audio.reshape(-1, self._channels).T, self._rate)
                entry |= figures | {"lufs": loudness}
            entries.append(entry)
        return entries

    def _part(self, position: int) -> str:
        """What a chunk belongs to."""
        return "handle" if position < 0 else "take" if position < self._frames else "tail"

    def _pieces(
        self, chunks: Sequence[tuple[takes.SpoolWriter | SpoolReader, takes.Placed]]
    ) -> Iterator[bytes]:
        for spool, placed in chunks:
            if self.stopped:
                raise Stopped
            yield spool.read(placed)

    def close(self) -> None:
        self._spool.close()
        if self._past is not None:
            self._past.close()


_SETTINGS_BYTES = 16_384  # beside 16 takes of four stems in one header of 64 KiB


def _fitting(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings for an event's manifest; the long ones left out, and named, where they are too much."""
    left_out = []
    for name in ("tempo_map", "harmony", "text", "negative_text"):
        if len(msgpack.packb(settings)) <= _SETTINGS_BYTES:
            break
        if name in settings:
            left_out.append(name)
            settings = {other: value for other, value in settings.items() if other != name}
    return {"settings": settings} | ({"settings_left_out": left_out} if left_out else {})


def _hex(value: bytes | None) -> str | None:
    return value.hex() if value else None


__all__ = ["Rendering", "Stopped"]
