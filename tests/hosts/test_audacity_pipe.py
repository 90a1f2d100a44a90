"""Audacity's pipe without an Audacity: what it says too early, in pieces, too late, or not at all."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bridge_clients.audacity import host, pipe_ends
from bridge_clients.audacity import pipe as talking
from bridge_clients.audacity.pipe import MAX_COMMAND_BYTES, Pipe, quoted
from protocol.errors import SegueError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs")
READY = b"{echo}\nBatchCommand finished: OK\n\n"  # {echo}: the text of a Message


class Other:
    """The other end of two FIFOs: answers each line with what it was told, piece by piece."""

    def __init__(self, folder: Path, *answers: tuple[bytes, ...]) -> None:
        self.to, self.back = folder / "to", folder / "back"
        os.mkfifo(self.to)
        os.mkfifo(self.back)
        self.heard: list[bytes] = []
        self._answers = list(answers)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with open(self.to, "rb") as lines, open(self.back, "wb", buffering=0) as back:
            for line in lines:
                self.heard.append(line)
                if not self._answers:
                    return  # closed in the middle
                echo = line.partition(b'Text="')[2].rstrip(b'"\n')
                for piece in self._answers.pop(0):
                    back.write(piece.replace(b"{echo}", echo))
                    time.sleep(0.01)

    def ends(self) -> pipe_ends.Ends:
        return pipe_ends._PosixEnds(self.to, self.back, time.monotonic() + 5)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., tuple[Pipe, Other]]]:
    made: list[Pipe] = []

    def begin(*answers: tuple[bytes, ...], answer_s: float = 1.0) -> tuple[Pipe, Other]:
        other = Other(tmp_path, *answers)
        made.append(Pipe(ends=other.ends(), answer_s=answer_s))
        return made[-1], other

    yield begin
    for pipe in made:
        pipe.close()


def test_a_bare_newline_is_no_answer_and_is_asked_again(talk: Any) -> None:
    pipe, other = talk((b"\n",), (b"\n",), (READY,), (b"5\nBatchCommand finished: OK\n\n",))
    assert pipe.do("GetPreference: Name=x") == "5"
    assert len(other.heard) == 4 and len(set(other.heard)) == 4
    assert all(line.startswith(b'Message: Text="segue ') for line in other.heard[:3])


def test_answers_to_a_client_that_was_killed_are_thrown_away(talk: Any) -> None:
    stale = b"/removed/by/now.wav\nBatchCommand finished: OK\n\n"
    rest = b'"channels":2 } ]\nBatchCommand finished: Failed!\n\n'
    pipe, other = talk((rest, stale, READY), (b"5\nBatchCommand finished: OK\n\n",))
    assert pipe.do("GetPreference: Name=x") == "5"
    assert len(other.heard) == 2


def test_an_audacity_without_messages_is_greeted_too(talk: Any) -> None:
    unknown = b"Your batch command of Message was not recognized.\nBatchCommand finished: Failed!\n\n"
    pipe, _ = talk((unknown,), (b"5\nBatchCommand finished: OK\n\n",))
    assert pipe.do("GetPreference: Name=x") == "5"


def test_pipes_that_are_made_anew_meanwhile_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder in folders:
        folder.mkdir()
    old, new = Other(folders[0]), Other(folders[1], (READY,), (b"5\nBatchCommand finished: OK\n\n",))
    ends = iter((old.ends(), new.ends()))
    monkeypatch.setattr(talking, "connect", lambda wait_s: next(ends))
    monkeypatch.setattr(talking.tempfile, "gettempdir", lambda: str(tmp_path))  # another lock than the user's
    with Pipe(answer_s=5) as pipe:
        assert pipe.do("GetPreference: Name=x") == "5"
    assert len(old.heard) == 1 and len(new.heard) == 2


def test_an_answer_in_pieces_with_blank_lines_is_one(talk: Any) -> None:
    words = "two\n\nparagraphs, BatchCommand finished: OK in the middle, \u00e9"
    whole = f"{words}\nBatchCommand finished: OK\n\n".encode()
    pipe, _ = talk((READY,), tuple(whole[n : n + 1] for n in range(len(whole))), answer_s=10)
    assert pipe.do("Help: Command=x") == words


def test_what_audacity_could_not_do_is_said_in_its_own_words(talk: Any) -> None:
    failed = b"Your batch command of X was not recognized.\nBatchCommand finished: Failed!\n\n"
    pipe, _ = talk((READY,), (failed,), (failed,))
    with pytest.raises(SegueError, match="X: Your|X; it says: Your batch command"):
        pipe.do("X:")
    assert pipe.try_("X:") is None


def test_silence_ends_in_time_and_says_why(talk: Any) -> None:
    pipe, other = talk((READY,), (), (READY,), answer_s=0.3)
    begun = time.monotonic()
    with pytest.raises(SegueError) as told:
        pipe.do("Undo:")
    assert told.value.code == "E_TIMEOUT" and "dialog" in told.value.message
    assert 0.25 < time.monotonic() - begun < 2
    begun = time.monotonic()
    with pytest.raises(SegueError, match="dialog"):
        pipe.do("RemoveTracks:")
    assert time.monotonic() - begun < 0.1 and len(other.heard) == 2  # nothing is sent behind it


def test_audacity_closed_in_the_middle_is_known_at_once(talk: Any) -> None:
    pipe, _ = talk((READY,), answer_s=20)
    begun = time.monotonic()
    with pytest.raises(SegueError, match="closed"):
        pipe.do("Undo:")
    assert time.monotonic() - begun < 3


def test_a_pipe_that_a_dead_audacity_left_behind_is_told_from_none(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="start Audacity"):
        pipe_ends._PosixEnds(tmp_path / "to", tmp_path / "back", time.monotonic() + 0.1)
    for name in ("to", "back"):
        os.mkfifo(tmp_path / name)
    begun = time.monotonic()
    with pytest.raises(SegueError, match="left its script pipe behind"):
        pipe_ends._PosixEnds(tmp_path / "to", tmp_path / "back", time.monotonic() + 0.1)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_pipe_of_ours_is_not_written_to(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    target.write_text("as it was")
    for name in ("to", "back"):
        if kind == "file":
            (tmp_path / name).write_text("as it was")
        else:
            (tmp_path / name).symlink_to(target)
    with pytest.raises(SegueError, match="not a pipe of yours"):
        pipe_ends._PosixEnds(tmp_path / "to", tmp_path / "back", time.monotonic() + 0.1)
    assert target.read_text() == "as it was"


@pytest.mark.parametrize("words", ["Undo:\nRemoveTracks:", "x" * (MAX_COMMAND_BYTES + 1), "a\x00b", "a\rb"])
def test_a_command_that_would_become_two_is_refused(talk: Any, words: str) -> None:
    pipe, other = talk((READY,))
    with pytest.raises(ValueError):
        pipe.do(words)
    with pytest.raises(ValueError):
        pipe.do(f"Help: Command={quoted(words)}")
    assert len(other.heard) == 1


@pytest.mark.parametrize("point", [".", ","])
def test_names_with_quotes_backslashes_and_line_breaks_are_read(point: str) -> None:
    rest = (
        '"focused":0, "selected":1, "kind":"wave", "start":0, "end":8.5, "pan":-0.5, "gain":1, "channels":2'
    )
    rest = rest.replace("8.5", f"8{point}5").replace("-0.5", f"-0{point}5")
    names = ["plain", 'a "b" c', "back\\", "two\nlines", 'x", "focused":0, "selected":0 }']
    lines = ",\n".join('{ "name":"' + name.replace('"', '\\"') + f'", {rest} }}' for name in names)
    label = ',\n{ "name":"l", "focused":0, "selected":0, "kind":"label" } ]'
    found = list(host._read_tracks(f"[ \n{lines}{label}"))
    assert [track.name for track in found] == [*names, "l"]
    assert [track.index for track in found] == list(range(6))
    first = found[0]
    assert (first.kind, first.channels, first.selected, first.panned, first.end_s) == (
        "wave",
        2,
        True,
        True,
        8.5,
    )
    assert (found[-1].kind, found[-1].selected) == ("label", False)


def test_a_selections_end_is_counted_from_its_start() -> None:
    # as Audacity 3.2.4 told a selection from 1.00001 s to 5.00123 s at 48 kHz
    place = host.Place(Fraction("1.00001"), Fraction("5.001239"), 48_000, ())
    assert (place.start_frame, place.end_frame) == (48_000, round(5.00123 * 48_000))


class Pipes:
    """The two named pipes of Windows, as Python's `open` gives them."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def open(self, name: str, mode: str, buffering: int) -> Any:
        assert buffering == 0 and (name, mode) in (
            (pipe_ends.WINDOWS_TO, "wb"),
            (pipe_ends.WINDOWS_FROM, "rb"),
        )
        return self

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        if data.startswith(b"Message:"):
            words = data.partition(b'"')[2].rpartition(b'"')[0]
            self.answers.put(READY.replace(b"{echo}", words).replace(b"\n", b"\r\n") + b"\x00")

    def read(self, _size: int) -> bytes:
        return self.answers.get()

    def close(self) -> None:
        self.answers.put(b"")


def test_the_pipes_of_windows_speak_the_same() -> None:
    pipes = Pipes()
    with Pipe(ends=pipe_ends._WindowsEnds(time.monotonic() + 1, pipes.open), answer_s=2) as pipe:
        pipes.answers.put(b"5\r\nBatchCommand finished: OK\r\n\r\n\x00")
        assert pipe.do("GetPreference: Name=x") == "5"
        assert pipes.sent[-1] == b"GetPreference: Name=x\r\n\0"
        pipes.answers.put(b"")
        with pytest.raises(SegueError, match="closed"):
            pipe.do("Undo:")


def test_the_pipes_of_windows_end_in_time_too() -> None:
    pipes = Pipes()
    with Pipe(ends=pipe_ends._WindowsEnds(time.monotonic() + 1, pipes.open), answer_s=0.3) as pipe:
        with pytest.raises(SegueError, match="does not answer"):
            pipe.do("Undo:")
