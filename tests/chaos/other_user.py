"""What another user of the machine can do: become one (from root), try, say what came of it.

python -m tests.chaos.other_user < {"paths": [...], "endpoint": ..., "token": ..., "runtime": ...}
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import zmq

from bridge_clients.connection import FILE_NAME, read
from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import encode_request

NOBODY = 65534


def _reached(path: str) -> bool:
    """Whether anything of it can be listed, read, written or connected to."""
    for attempt in (
        lambda: os.listdir(path),
        lambda: os.close(os.open(path, os.O_RDONLY)),
        lambda: os.close(os.open(path, os.O_WRONLY)),
        lambda: os.close(os.open(os.path.join(path, "mine"), os.O_WRONLY | os.O_CREAT)),
        lambda: socket.socket(socket.AF_UNIX).connect(path),
    ):
        try:
            attempt()
            return True
        except OSError:
            continue
    return False


def main() -> dict[str, Any]:
    told = json.loads(sys.stdin.read())
    context = zmq.Context()  # threads are made later, all under the other user's id
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    paths = [*told["paths"], str(Path(told["runtime"]) / FILE_NAME)]
    reached = [path for path in paths if _reached(path)]
    context.linger = 0
    answers = 0
    token = bytes.fromhex(told["token"])  # even with the token
    for kind in (zmq.DEALER, zmq.REQ):
        client = context.socket(kind)
        client.connect(told["endpoint"])
        head = [b""] if kind == zmq.DEALER else []
        client.send_multipart([*head, *encode_request(m.Hello(), 1, token)])
        answers += bool(client.poll(800))
        client.close(0)
    context.term()
    try:
        used = "nothing" if read(Path(told["runtime"]) / FILE_NAME) is None else "it"
    except SegueError as error:
        used = error.code
    return {"reached": reached, "answers": answers, "used": used, "tried": len(paths) * 5 + 3}


if __name__ == "__main__":
    print(json.dumps(main()))
