"""`segue keys`: files that let a client in, and what is said about them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from protocol.keys import KeyFolder

Command = Callable[..., "subprocess.CompletedProcess[str]"]
AT = ("--endpoint", "tcp://studio.local:5775")


def _folder() -> KeyFolder:
    return KeyFolder(Path(os.environ["SEGUE_STATE"]) / "keys")


def test_a_new_client_gets_a_file_and_is_allowed(command: Command, sandbox: Path) -> None:
    done = command("keys", "new", "laptop", *AT)
    assert done.returncode == 0, done.stderr
    path = sandbox / "laptop.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text())
    (client,) = _folder().clients()
    server = _folder().server()
    assert server is not None
    assert found["endpoints"] == ["tcp://studio.local:5775"] and found["curve_public_key"] == server.public
    assert (found["client_name"], found["client_public_key"]) == ("laptop", client.public)
    assert zmq.curve_public(found["client_secret_key"].encode()).decode() == client.public
    assert found["token"] == client.token.hex() and client.allowed_ms > 0
    assert server.secret not in path.read_text() and found["client_secret_key"] not in done.stdout
    assert found["client_secret_key"] not in (_folder().path / "clients.json").read_text()
    for name in ("server.json", "clients.json", "."):
        assert stat.S_IMODE((_folder().path / name).stat().st_mode) & 0o077 == 0
    assert "tcp.bind" in done.stdout and "segue keys revoke laptop" in done.stdout
    again = command("keys", "new", "laptop", *AT, "--out", "other.key")
    assert again.returncode == 2 and "already" in again.stderr and not (sandbox / "other.key").exists()
    over = command("keys", "new", "desk", *AT, "--out", "laptop.key")
    assert over.returncode == 2 and "written over" in over.stderr and len(_folder().clients()) == 1
    nowhere = command("keys", "new", "desk", *AT, "--out", "no/such/folder.key")
    assert nowhere.returncode == 2 and len(_folder().clients()) == 1, "no right without its file"


def test_list_and_revoke(command: Command, sandbox: Path) -> None:
    assert "No client" in command("keys").stdout
    for name in ("laptop", "desk"):
        assert command("keys", "new", name, *AT, "--json").returncode == 0
    listed = [json.loads(line) for line in command("keys", "list", "--json").stdout.splitlines()]
    assert [entry["name"] for entry in listed] == ["laptop", "desk"]
    shown = command("keys", "list").stdout
    assert all(entry["public_key"] in shown for entry in listed)
    gone = command("keys", "revoke", "laptop")
    assert gone.returncode == 0 and [client.name for client in _folder().clients()] == ["desk"]
    again = command("keys", "revoke", "laptop")
    assert again.returncode == 2 and "desk" in again.stderr and again.stderr.count("\n") == 1
    back = command("keys", "allow", "laptop.key")  # the file it has is good again
    assert back.returncode == 0, back.stderr
    found = json.loads((sandbox / "laptop.key").read_text())
    assert {client.name: client.token.hex() for client in _folder().clients()}["laptop"] == found["token"]


def test_the_last_one_out_is_said(command: Command, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_TCP_BIND", "tcp://127.0.0.1:5775")
    made = command("keys", "new", "laptop")
    assert made.returncode == 0 and "next start" in made.stdout, made.stderr
    assert json.loads((sandbox / "laptop.key").read_text())["endpoints"] == ["tcp://127.0.0.1:5775"]
    assert "Nobody is allowed any more" in command("keys", "revoke", "laptop").stdout


def test_a_client_that_made_its_own_keys(command: Command, sandbox: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    certificate = sandbox / "desk.cert"
    certificate.write_text(f'metadata\ncurve\n    public-key = "{public}"\n    secret-key = "{secret}"\n')
    done = command("keys", "allow", "desk.cert", *AT)
    assert done.returncode == 0, done.stderr
    found = json.loads((sandbox / "desk.key").read_text())
    assert found["client_public_key"] == public and found["client_secret_key"] is None
    assert _folder().clients()[0].public == public
    plain = next(key for _ in range(99) if (key := zmq.curve_keypair()[0].decode())[0] != "-")
    done = command("keys", "allow", plain, "--name", "other", *AT)
    assert done.returncode == 0 and len(_folder().clients()) == 2, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("new",), ("allow",), ("revoke",), ("new", "../laptop"), ("new", "a b"), ("new", ""), ("new", "-x"),
        ("new", "x" * 65),
        ("new", "laptop"), ("new", "laptop", "--endpoint", "ipc:///tmp/x"), ("new", "laptop", "--endpoint", "tcp://*:5775"),
        ("new", "laptop", "--endpoint", "tcp://a:0"), ("allow", "x" * 39),
        ("allow", "#" * 40), ("allow", "/no/such/file"),
        ("allow", "/dev/null"), ("forget", "laptop"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_said_in_a_sentence(
    command: Command, sandbox: Path, words: tuple[str, ...]
) -> None:
    done = command("keys", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert not _folder().path.exists() and not list(sandbox.glob("*.key"))


def test_the_command_at_another_machine_starts_nothing(command: Command, sandbox: Path) -> None:
    missing = command("ping", "--at", "no.key")
    assert missing.returncode == 5 and "no.key" in missing.stderr
    command("keys", "new", "laptop", "--endpoint", "tcp://127.0.0.1:9")
    nobody = command("models", "--at", "laptop.key")
    assert nobody.returncode == 5 and "tcp://127.0.0.1:9" in nobody.stderr and nobody.stderr.count("\n") == 1
    (sandbox / "laptop.key").chmod(0o644)
    loose = command("ping", "--at", "laptop.key")
    assert loose.returncode == 5 and "chmod 600" in loose.stderr
    assert not Path(os.environ["SEGUE_RUNTIME"]).exists()
    os.environ["SEGUE_CONNECTION"] = str(sandbox / "laptop.key")
    try:
        serve = command("serve")
    finally:
        del os.environ["SEGUE_CONNECTION"]
    assert serve.returncode == 2 and "SEGUE_CONNECTION" in serve.stderr
