"""A client written from SPEC.md alone: zmq, msgpack and CRC-32, nothing of this repository on its side."""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.clients.fake import CHUNK_FRAMES, FakeDaemon, take_bytes


class Stranger:
    """ "In one minute", as code: one REQ or DEALER socket."""

    def __init__(self, folder: Path, kind: int) -> None:
        found = json.loads((folder / "connection.json").read_text())
        self.first = b"SGU\x01" + bytes.fromhex(found["token"])
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.connect(found["endpoints"][0])
        self.before = [b""] if kind == zmq.DEALER else []
        self.number, self.patience_ms = 0, 5000

    def ask(self, op: str, *payloads: bytes, **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
        self.number += 1
        header = msgpack.packb({"op": op, "id": self.number, **fields})
        assert self.socket.poll(2000, zmq.POLLOUT)
        self.socket.send_multipart([*self.before, self.first, header, *payloads])
        assert self.socket.poll(self.patience_ms, zmq.POLLIN), f"no answer to {op}"
        frames = self.socket.recv_multipart(zmq.NOBLOCK)
        if self.before:
            assert frames.pop(0) == b""
        assert frames[0] == b"SGU\x01" + bytes(32)
        reply = msgpack.unpackb(frames[1])
        assert (reply["op"], reply["id"]) == (op, self.number)
        return reply, frames[2:]

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER], ids=["REQ", "DEALER"])
def test_the_page_is_enough(tmp_path: Path, kind: int) -> None:
    folder = tmp_path / "run"
    with FakeDaemon(folder):
        client = Stranger(folder, kind)
        hello, _ = client.ask("hello", client="a stranger", protocol=[1, 0])
        assert hello["ok"] and hello["protocol"] == [1, 1] and hello["ready"]
        samples = struct.pack("<4f", 0.0, 0.5, -0.5, 0.25)
        job, _ = client.ask(
            "submit",
            samples,
            key=bytes(16),
            mode="continue",
            length={"bars": "4/1"},
            tempo_map={"changes": [{"at": 0, "bpm": 120}]},
            audio=[{"rate": 48000, "channels": 2, "frames": 2, "role": "prompt"}],
        )
        made, after = b"", 0
        while True:
            reply, payloads = client.ask("next", job=job["job"], after=after, wait_ms=100)
            for event in reply.get("events", []):
                assert event["seq"] == after + 1
                after = event["seq"]
                if event["event"] == "audio":
                    described, raw = reply["audio"][event["payload"]], payloads[event["payload"]]
                    assert zlib.crc32(raw) == event["crc"] and described["format"] == "f32le"
                    assert len(raw) == described["frames"] * described["channels"] * 4
                    assert event["position"] == len(made) // 4
                    made += raw
            if reply["state"] in ("done", "failed", "cancelled") and after == reply["last"]:
                break
        assert struct.unpack(f"<{5 * CHUNK_FRAMES}f", made) == tuple(range(5 * CHUNK_FRAMES))
        whole = b""
        while True:
            piece, payloads = client.ask("fetch", job=job["job"], **{"as": "bytes", "offset": len(whole)})
            assert piece["data"] == {"bytes": len(payloads[0]), "crc": zlib.crc32(payloads[0])}
            whole += payloads[0]
            if len(whole) == piece["total_bytes"]:
                break
        assert whole == take_bytes() and zlib.crc32(whole) == piece["crc"]
        refused, _ = client.ask("status", job="nobody")
        assert refused["ok"] is False and refused["error"]["code"] == "E_JOB"
        assert client.ask("forget", job=job["job"])[0]["ok"]
        client.close()


def test_a_stranger_without_the_token_is_met_with_silence(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FakeDaemon(folder) as daemon:
        client = Stranger(folder, zmq.REQ)
        client.first = b"SGU\x01" + bytes(32)
        with pytest.raises(AssertionError, match="no answer"):
            client.patience_ms = 200
            client.ask("hello")
        client.close()
        time.sleep(0.05)
        assert daemon.refused == 1 and daemon.seen == []
