"""A client on another machine: the real daemon on loopback tcp, a key file, nothing else shared."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_clients.async_client import AsyncClient
from bridge_clients.client import Client
from bridge_clients.connection import read_key_file
from protocol.errors import SegueError
from protocol.keys import KeyFolder
from tests.daemon.house import ROOT, House, submit
from tests.daemon.network import free_port, let_in, new_pair


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    made = House(f"tcp.bind={endpoint}")
    let_in(made.state, "first", endpoint)
    made.endpoint = endpoint  # type: ignore[attr-defined]
    yield made.start()
    made.close()


@pytest.fixture
def key_file(house: House, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A key file of its own for each test; revoked with the test's end."""
    name = request.node.name[:40].replace("[", ".").replace("]", "")
    return written(tmp_path / "client.key", let_in(house.state, name, house.endpoint))  # type: ignore[attr-defined]


def written(path: Path, content: dict[str, Any]) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    return path


def test_everything_but_paths_works(house: House, key_file: Path, tmp_path: Path) -> None:
    with Client(connection=key_file) as client:
        assert client.remote and client.skew is None and client.hello.pid == house.process.pid  # type: ignore[union-attr]
        job = client.submit(submit(0.4))
        assert job.wait(timeout_s=20).event == "done"
        got = client.fetch(job.id)
        assert got.path is None and got.data is not None and got.data[:4] == b"RIFF"
        saved = client.save(job.id, tmp_path / "take.wav")
        assert (tmp_path / "take.wav").read_bytes() == got.data and saved.crc == got.crc
        with pytest.raises(SegueError) as refused:
            client.fetch(job.id, as_="path")
        assert refused.value.code == "E_ARGUMENT"
        assert str(house.folder) not in repr(client.status(job.id).to_map())


def test_the_asyncio_client_too(key_file: Path) -> None:
    async def go() -> bytes:
        async with AsyncClient(connection=key_file) as client:
            assert client.remote and client.skew is None
            job = await client.submit(submit(0.3))
            await job.wait(timeout_s=20)
            return (await client.fetch(job.id)).data or b""

    assert asyncio.run(go())[:4] == b"RIFF"


def test_the_environment_names_it_and_the_command_uses_it(key_file: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SEGUE_CONNECTION": str(key_file), "PYTHONPATH": str(ROOT)}
    environment |= {"SEGUE_RUNTIME": str(tmp_path / "none"), "SEGUE_STATE": str(tmp_path / "state")}

    def segue(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bridge_clients.cli", *words],
            env={**environment, **more}, capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip

    assert "ready" in segue("ping").stdout
    assert "ready" in segue("ping", "--at", str(key_file), SEGUE_CONNECTION="").stdout
    made = segue("generate", "--seconds", "0.3", "--out", "takes", "--no-overview", "--model", "coded")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "takes" / "v1.mix.wav").stat().st_size > 1000
    jobs = [json.loads(line) for line in segue("takes", "--json").stdout.splitlines()]
    exported = segue("takes", "export", jobs[0]["job"], "--out", "again")
    assert exported.returncode == 0 and list((tmp_path / "again").glob("*.wav")), exported.stderr
    assert not (tmp_path / "none").exists(), "nothing was looked for or started here"


def test_refusals_are_sentences_and_quick(house: House, key_file: Path, tmp_path: Path) -> None:
    good = json.loads(key_file.read_text())
    other = new_pair()
    bad = {
        "wrong server": {**good, "curve_public_key": other.public},
        "unknown client": {**good, "client_public_key": other.public, "client_secret_key": other.secret},
        "no secret": {**good, "client_secret_key": None},
        "closed port": {**good, "endpoints": [f"tcp://127.0.0.1:{free_port()}"]},
        "wrong token": {**good, "token": bytes(32).hex()},
    }
    for name, content in bad.items():
        with pytest.raises(SegueError) as refused:
            Client(connection=written(tmp_path / f"{name}.key", content), timeout_s=3.0)
        assert refused.value.code == "E_UNREACHABLE" and refused.value.message.endswith("."), name
    with Client(connection=written(tmp_path / "keys.key", bad["no secret"]), curve_keys=(
        good["client_public_key"].encode(), good["client_secret_key"].encode())) as client:  # fmt: skip
        assert client.ping().ready


def test_a_name_is_looked_up_within_the_callers_time(
    house: House, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads(key_file.read_text())
    port = good["endpoints"][0].rpartition(":")[2]
    named = written(tmp_path / "named.key", {**good, "endpoints": [f"tcp://localhost:{port}"]})
    with Client(connection=named) as client:
        assert client.ping().ready

    def never(*_: object) -> list[object]:
        time.sleep(4.0)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    begun = time.monotonic()
    with pytest.raises(SegueError, match="localhost"):
        Client(connection=named, autostart=False, timeout_s=0.5)
    assert time.monotonic() - begun < 2.0


def test_a_revoked_client_learns_it_within_its_own_time(house: House, key_file: Path) -> None:
    with Client(connection=key_file, timeout_s=4.0) as client:
        assert client.ping().ready
        name = json.loads(key_file.read_text())["client_name"]
        KeyFolder(house.state / "keys").revoke(name)
        with pytest.raises(SegueError) as refused:
            client.ping()
        assert refused.value.code in ("E_UNREACHABLE", "E_TIMEOUT")


@pytest.mark.parametrize("damage", ["mode", "link", "pipe", "folder", "text", "empty", "huge", "gone"])
def test_a_key_file_is_read_with_care(house: House, key_file: Path, damage: str) -> None:
    raw = key_file.read_bytes()
    if damage == "mode":
        key_file.chmod(0o640)
    elif damage == "link":
        key_file.rename(key_file.with_name("real.key"))
        key_file.symlink_to(key_file.with_name("real.key"))
    elif damage == "pipe":
        key_file.unlink()
        os.mkfifo(key_file, 0o600)
    elif damage == "folder":
        key_file.unlink()
        key_file.mkdir(mode=0o700)
    elif damage == "gone":
        key_file.unlink()
    else:
        key_file.write_bytes({"text": raw[:-30], "empty": b"", "huge": raw + b" " * 100_000}[damage])
    with pytest.raises(SegueError) as refused:
        read_key_file(key_file)
    assert refused.value.code == "E_UNREACHABLE" and str(key_file) in refused.value.message
