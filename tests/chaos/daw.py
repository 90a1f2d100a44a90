"""A host's user-interface thread: every 15 ms it may do a little and no more, whatever the daemon does.

    python -m tests.chaos.daw RUNTIME_FOLDER KEY_FILE SEED

It submits jobs under keys that it has noted first, polls `next` without waiting, and checks each sample. No
threads, no blocking call: poll(0), send and receive without waiting, a fresh socket and the same key when an
answer is missing. Until its standard input closes; then one JSON line: how long its calls took at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from bridge_clients.connection import FILE_NAME, Connection, read
from bridge_clients.link import open_socket
from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import decode_reply, encode_request
from tests.daemon import engine
from tests.daemon.house import submit

TICK_S = 0.015
NO_ANSWER_S = 1.0


class Defer:
    """What runs under the host's timer: `tick` is one call."""

    def __init__(self, runtime: Path, keys: Path, seed: int) -> None:
        self._path, self._keys, self._dice = runtime / FILE_NAME, keys, random.Random(seed)
        self._context = zmq.Context()
        self._context.linger = 0
        self._connection: Connection | None = None
        self._socket: Any = None
        self._asked_s: float | None = None
        self._number = 0
        self._question: m.Request | None = None
        self._fresh()
        self.done: list[str] = []
        self.wrong: list[str] = []
        self.reopened = 0

    def _fresh(self) -> None:
        """The next job; its key is on the disk before anybody hears of it."""
        self._seed = self._dice.randrange(1, 1000)
        request = submit(0.6, rate=32_000, seed=self._seed, text="slow=4", key=self._dice.randbytes(16))
        with self._keys.open("a") as file:
            file.write(request.key.hex() + "\n")
        self._submit, self._job, self._after = request, "", 0
        self._void = 0
        self._pieces: dict[int, Any] = {}

    def tick(self) -> None:
        """One call of the timer."""
        if self._socket is None:
            self._open()
        elif self._asked_s is None:
            self._ask()
        elif self._socket.poll(0, zmq.POLLIN):
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            self._asked_s = None
            self._hear(*decode_reply(frames))
        elif time.monotonic() - self._asked_s > NO_ANSWER_S or self._replaced():
            self._drop()

    def _replaced(self) -> bool:
        return self._connection is not None and self._connection.replaced()

    def _open(self) -> None:
        with contextlib.suppress(SegueError):
            self._connection = read(self._path)
            if self._connection is not None:
                self._socket = open_socket(self._context, self._connection, None)
                self._opened_s = time.monotonic()
                self.reopened += 1

    def _drop(self) -> None:
        self._socket.close(0)
        self._socket, self._asked_s = None, None

    def _ask(self) -> None:
        if not self._socket.poll(0, zmq.POLLOUT):
            if time.monotonic() - self._opened_s > NO_ANSWER_S or self._replaced():
                self._drop()
            return
        self._question = (
            self._submit if not self._job else m.Next(job=self._job, after=self._after, wait_ms=0)
        )
        self._number += 1
        frames = encode_request(self._question, self._number, self._connection.token)  # type: ignore[union-attr]
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            self._asked_s = time.monotonic()

    def _hear(self, number: int, reply: Any) -> None:
        if isinstance(reply, SegueError):
            if reply.retry not in ("same", "after", "reconnect"):
                self.wrong.append(f"job {self._job or '?'} (seed {self._seed}): {reply.code} {reply}")
                self._fresh()
        elif number != self._number:
            self.wrong.append("an answer to another question")
        elif isinstance(reply, m.SubmitReply):
            self._job = reply.job
        elif isinstance(reply, m.NextReply):
            self._take(reply)

    def _take(self, reply: m.NextReply) -> None:
        for event in reply.events:
            if event.seq != self._after + 1:
                self.wrong.append(f"event {event.seq} after {self._after} of job {self._job}")
            self._after = event.seq
            if event.event == "requeued" and event.discard_from is not None:
                self._pieces = {at: data for at, data in self._pieces.items() if at < event.discard_from}
            if event.event == "audio" and event.block is not None:
                self._pieces[event.position] = np.frombuffer(event.block.data, "<f4")
            if event.event == "done":
                self._check()
                self._fresh()
                return
            if event.final:
                self.wrong.append(f"job {self._job} ended with {event.event}")
                self._fresh()
                return

    def _check(self) -> None:
        at = min(self._pieces)
        audio = np.concatenate([self._pieces[place] for place in sorted(self._pieces)])
        if not np.array_equal(audio, engine.samples(self._seed, 0, "mix", at, audio.shape[0])[0]):
            self.wrong.append(f"job {self._job} came out wrong (seed {self._seed})")
        self.done.append(self._job)


def main(runtime: Path, keys: Path, seed: int) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        os.nice(-10)  # as a host's interface would have it before others' work
    defer = Defer(runtime, keys, seed)
    os.set_blocking(0, False)
    print("ready", flush=True)
    took: list[float] = []
    ran: list[float] = []
    due = time.monotonic()
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + TICK_S, time.monotonic())
        begun, busy = time.perf_counter(), time.thread_time()
        defer.tick()
        took.append(time.perf_counter() - begun)
        ran.append(time.thread_time() - busy)
        try:
            if os.read(0, 64) == b"":
                break
        except BlockingIOError:
            pass
    took.sort()
    ran.sort()
    return {
        "ticks": len(took), "p99_ms": 1000 * took[int(0.99 * len(took))], "worst_ms": 1000 * took[-1],
        "worst_of_its_own_ms": 1000 * ran[-1], "over": sum(t > TICK_S for t in took), "done": len(defer.done),
        "wrong": defer.wrong[:10], "sockets": defer.reopened,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
