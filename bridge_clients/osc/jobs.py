"""One job that an OSC sender asked for: a job directory of its own, seen to by the same code as `segue job`.

So a daemon that dies in the middle, a disk that fills, a cancel and the exact landing of takes are what they
are for every other host. The server's thread looks at `poll`; nothing it calls here waits.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge_clients.jobdir.folder import CANCEL, DONE, PROGRESS, REQUEST, JobDir, disk_error
from bridge_clients.jobdir.run import Run
from bridge_clients.osc.packets import Value
from bridge_clients.osc.requests import Sound, Wanted
from protocol.errors import SegueError

Answer = tuple[str, tuple[Value, ...]]  # address and values

PROMPT_S = 60.0  # of a prompt no more is sent; the daemon may hear less
_SEEDS = 1_000_000  # Pure Data shows six digits: a drawn seed can be read there and asked for again
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class OscJob:
    """tag: what every answer of it begins with; sender: who asked; root: where its directory is made;
    takes: the folder for finished takes unless the sender named one.
    """

    def __init__(
        self,
        wanted: Wanted,
        tag: int | str,
        sender: tuple[str, int],
        root: Path,
        takes: Path,
        report: Callable[[BaseException], str],
    ) -> None:
        self.tag, self.sender = tag, sender
        self.state: tuple[Value, ...] = ("starting", 0, 0, -1.0, "")
        self.ended = False
        self._wanted, self._report = wanted, report
        self._path = root / secrets.token_hex(8)
        self._takes = wanted.folder or takes
        self._offset = 0
        self._pieces = b""
        self._refused: SegueError | None = None
        self._run: Run | None = None
        self._over = threading.Event()
        self._path.mkdir(mode=0o700)
        threading.Thread(target=self._work, name=f"segue-osc-{tag}", daemon=True).start()

    def cancel(self) -> None:
        """Stop it; the answer comes by `poll`."""
        with contextlib.suppress(OSError):  # the directory may have been taken away: that cancels, too
            (self._path / CANCEL).touch(0o600)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        return self._over.wait(seconds)

    def poll(self) -> list[Answer]:
        """What is new. After the last answer `ended` is true and its directory is gone."""
        over = self._over.is_set()
        answers = [answer for line in self._new_lines() if (answer := self._told(line)) is not None]
        if over and not self.ended:
            self.ended = True
            answers.append(self._last())
            shutil.rmtree(self._path, ignore_errors=True)
        return answers

    # ---- the job's own thread ----

    def _work(self) -> None:
        try:
            self._lay()
            place = JobDir(self._path)
            try:
                Run(place, self._report).wait()
            finally:
                place.close()
        except SegueError as error:
            self._refused = error
        except OSError as error:  # the place of the job directories is full, or gone
            self._refused = disk_error(self._path, error)
        except Exception as error:  # a defect must reach the musician, not end in a thread
            self._refused = SegueError("E_INTERNAL", self._report(error))
        finally:
            self._over.set()

    def _lay(self) -> None:
        try:
            self._takes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SegueError(
                "E_ARGUMENT",
                f"The folder {self._takes} cannot be made ({error.strerror}).",
                field="folder",
                value=str(self._takes),
                allowed="a folder that you can write to",
            ) from None
        wanted = self._wanted
        listed = [self._lay_sound(index, sound) for index, sound in enumerate(wanted.sounds)]
        name = "".join(letter if letter in _SAFE else "_" for letter in str(self.tag))
        request: dict[str, Any] = {
            "version": 1,
            "host": "OSC",
            "takes_folder": str(self._takes.resolve()),
            "takes_name": f"segue-{wanted.mode}-{name}",  # no space: Pure Data splits there
            "seed": secrets.randbelow(_SEEDS),
            **wanted.request,
            "audio": listed,
        }
        part = self._path / f".{REQUEST}.part"
        part.write_text(json.dumps(request), encoding="utf-8")
        part.rename(self._path / REQUEST)

    def _lay_sound(self, index: int, sound: Sound) -> dict[str, Any]:
        from bridge_clients.audio_files import inspect, read_before, write_wav

        info = inspect(sound.path)
        end = info.frames if sound.to_s is None else round(sound.to_s * info.rate_hz)
        first = 0 if sound.from_s is None else round(sound.from_s * info.rate_hz)
        if not 0 <= first < end <= info.frames:
            allowed = f"within 0 to {info.seconds:.3f} s, from before to"
            raise SegueError(
                "E_ARGUMENT",
                f"from and to do not name a part of {sound.path.name}.",
                field="from",
                value=sound.from_s if sound.from_s is not None else sound.to_s,
                allowed=allowed,
            )
        most = end - first
        if sound.role == "prompt":
            most = min(most, round(PROMPT_S * info.rate_hz))
        excerpt = read_before(info, end, most)
        file = f"{index}.wav"
        write_wav(self._path / file, [excerpt.samples], info.rate_hz, "float")
        told: dict[str, Any] = {"file": file, "role": sound.role}
        if sound.role == "prompt":
            told["position"] = -len(excerpt.samples)
        if sound.role == "context":
            told |= {"track": index} | ({"stem": sound.stem} if sound.stem else {})
        return told

    # ---- the server's thread ----

    def _new_lines(self) -> list[dict[str, Any]]:
        try:
            with (self._path / PROGRESS).open("rb") as file:
                file.seek(self._offset)
                new = file.read(1 << 20)
        except OSError:
            return []
        self._offset += len(new)
        *lines, self._pieces = (self._pieces + new).split(b"\n")
        return [json.loads(line) for line in lines if line]

    def _told(self, line: dict[str, Any]) -> Answer | None:
        def of(*names: str) -> tuple[Value, ...]:
            return (self.tag, *(line.get(name, "") for name in names))

        event = line.get("event")
        if event == "accepted":
            return "/segue/accepted", of("job", "seed", "frames", "rate", "lead_frames", "variations")
        if event == "tick":
            eta_s = float(line.get("eta_s", -1.0))
            state = line.get("state", ""), line.get("done", 0), line.get("total", 0), eta_s
            self.state = (*state, line.get("message", ""))
            return "/segue/progress", (self.tag, *self.state)
        if event == "take":
            names = "variation stem file frames rate position handle_frames tail_frames seed".split()
            return "/segue/take", of(*names)
        if event == "note":
            return "/segue/note", of("message")
        return None

    def _last(self) -> Answer:
        done: dict[str, Any] = {}
        if self._refused is None:
            try:
                done = json.loads((self._path / DONE).read_bytes())
            except (OSError, ValueError):
                self._refused = SegueError("E_INTERNAL", "The job's directory was taken away.")
        if self._refused is not None:
            return error_answer(self.tag, self._refused)
        if done.get("state") == "failed":
            words = {name: done.get(name) for name in ("field", "value", "allowed")}
            return error_answer(self.tag, SegueError(done["code"], done["message"], **words))
        return "/segue/done", (
            self.tag, done.get("state", ""), len(done.get("takes", ())), done.get("seed", ""),
        )  # fmt: skip


def error_answer(tag: int | str, error: SegueError) -> Answer:
    """`/segue/error` id code message field value allowed."""
    value = error.value if isinstance(error.value, int | float) else str(error.value or "")
    return "/segue/error", (tag, error.code, str(error), error.field or "", value, error.allowed or "")
