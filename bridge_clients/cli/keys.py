"""``segue keys``: which clients on other machines may use this daemon.

Only files are written (`protocol.keys` has their form); a daemon that runs looks at them by itself, so what
is allowed or revoked here counts at once.
"""

from __future__ import annotations

import ast
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from bridge_clients.cli.exits import DONE
from bridge_clients.cli.showing import json_line, say, table, when
from protocol.errors import SegueError
from protocol.keys import (
    KEYS_FOLDER,
    AllowedClient,
    KeyFolder,
    KeyPair,
    check_name,
    is_key,
    key_file,
    new_token,
)
from protocol.limits import TOKEN_BYTES

_ASK_S = 30.0
_MAX_FILE_BYTES = 64 * 1024
_ENDPOINT = re.compile(r"tcp://[A-Za-z0-9.-]{1,253}:([0-9]{1,5})")
_PUBLIC_LINE = re.compile(r"public-key\s*=\s*\"([^\"\n]*)\"")  # certificates of other ZeroMQ programs


def run(args: Any) -> int:
    """One action: list, new, allow or revoke."""
    if args.action != "list" and not args.what:
        named = {"new": "a name for the client", "revoke": "the name of a client", "allow": "a public key"}
        raise SegueError("E_ARGUMENT", f"keys {args.action} needs {named[args.action]}.", field="what")
    return {"list": _list, "new": _new, "allow": _allow, "revoke": _revoke}[args.action](args)


# ---- actions ----


def _list(args: Any) -> int:
    place = _Place.find()
    clients = place.folder.clients()
    if args.json:
        for client in clients:
            json_line(
                {
                    "event": "client",
                    "name": client.name,
                    "public_key": client.public,
                    "allowed_ms": client.allowed_ms or None,
                }
            )
        return DONE
    if not clients:
        say("No client on another machine is allowed: segue keys new NAME makes a key for one.")
        return DONE
    table(["NAME", "SINCE", "PUBLIC KEY"], [[c.name, when(c.allowed_ms or None), c.public] for c in clients])
    if not place.bind:
        say("The daemon does not listen on the network: tcp.bind is not set.")
    return DONE


def _new(args: Any) -> int:
    """A key pair of its own for a client, in one file to carry there."""
    name = check_name(args.name or args.what)
    place = _Place.find()
    endpoint = place.endpoint(args.endpoint)
    pair = _new_pair()
    client = AllowedClient(name, pair.public, new_token(), time.time_ns() // 1_000_000)
    out = _free(args.out or f"{name}.key")
    place.allow(client, lambda server: _put(out, key_file(client, endpoint, server, pair)))
    _tell(args, place, client, endpoint, out, "Carry it there by a safe way: whoever has it may come in.")
    return DONE


def _allow(args: Any) -> int:
    """A client that made its key pair itself, or one that was revoked and comes back with its key file."""
    public, token, named = _read_public(args.what)
    name = check_name(args.name or named or "")
    place = _Place.find()
    client = AllowedClient(name, public, token or new_token(), time.time_ns() // 1_000_000)
    if token is not None:
        place.allow(client, lambda server: None)
        _tell(args, place, client, None, None, f"{args.what} is good again.")
        return DONE
    endpoint = place.endpoint(args.endpoint)
    out = _free(args.out or f"{name}.key")
    place.allow(client, lambda server: _put(out, key_file(client, endpoint, server)))
    _tell(
        args, place, client, endpoint, out, "Carry it there and put the secret key in as client_secret_key."
    )
    return DONE


def _revoke(args: Any) -> int:
    place = _Place.find()
    client = place.folder.revoke(args.what)
    if args.json:
        json_line({"event": "revoked", "name": client.name, "public_key": client.public})
    else:
        say(f"{client.name} is out; its connections end within a second or two.")
        if place.bind and not place.folder.clients():
            say("Nobody is allowed any more: the door closes, and no daemon starts while tcp.bind is set.")
    return DONE


def _tell(
    args: Any, place: _Place, client: AllowedClient, endpoint: str | None, out: Path | None, advice: str
) -> None:
    if args.json:
        json_line(
            {
                "event": "allowed",
                "name": client.name,
                "public_key": client.public,
                "endpoint": endpoint,
                "file": str(out) if out is not None else None,
            }
        )
        return
    if out is not None:
        say(f"{out} lets {client.name} in at {endpoint}. {advice}")
        say(f"There: SEGUE_CONNECTION={out.name} segue ping. Here: segue keys revoke {client.name} ends it.")
    else:
        say(f"{client.name} is allowed. {advice}")
    if not place.bind:
        example = endpoint or "tcp://ADDRESS:5775"
        say(f"The daemon does not listen there yet: segue serve --set tcp.bind={example}")
    elif not place.open:
        say("The daemon opens its door with the next start: segue stop, then any command.")


# ---- where the files are ----


class _Place:
    """The folder of keys of this user's daemon, and where the daemon listens."""

    def __init__(self, folder: KeyFolder, bind: str, is_open: bool) -> None:
        self.folder, self.bind, self.open = folder, bind, is_open

    @classmethod
    def find(cls) -> _Place:
        """From the daemon that runs, else from the configuration that the next one will have."""
        from bridge_clients.connection import find

        connection = find()
        if connection is not None and connection.alive() and connection.keys_folder is not None:
            told = connection.tcp_endpoint
            if told is not None:
                return cls(KeyFolder(connection.keys_folder), told, True)
            return cls(KeyFolder(connection.keys_folder), _configured().get("tcp.bind", ""), False)
        found = _configured()
        state = found.get("folders.state") or _usual_state()
        return cls(
            KeyFolder(Path(state).expanduser().absolute() / KEYS_FOLDER), found.get("tcp.bind", ""), False
        )

    def endpoint(self, given: str | None) -> str:
        """The address that clients shall use. Raises E_ARGUMENT when there is none."""
        endpoint = given or self.bind
        if not endpoint:
            raise SegueError(
                "E_ARGUMENT",
                "Say where clients will find the daemon: set tcp.bind first, or --endpoint tcp://ADDRESS:5775.",
                field="endpoint",
            )
        found = _ENDPOINT.fullmatch(endpoint)
        if found is None or not 1 <= int(found[1]) <= 65535:
            raise SegueError(
                "E_ARGUMENT",
                f"{endpoint!r} is not an address for clients.",
                field="endpoint",
                allowed="tcp://NAME-OR-ADDRESS:PORT",
            )
        return endpoint

    def allow(self, client: AllowedClient, write: Any) -> None:
        """Allow a client and `write(server's public key)` its file; both or neither."""
        server = self.folder.server()
        if server is None:
            server = self.folder.set_server(_new_pair())
        self.folder.allow(client)
        try:
            write(server.public)
        except BaseException:
            self.folder.revoke(client.name)
            raise


def _configured() -> dict[str, str]:
    """Settings as the daemon would resolve them: only it knows how, so it is asked (0.2 s)."""
    from bridge_clients.cli.children import ask_python

    status, words = ask_python(["-m", "daemon", "config", "show"], _ASK_S)
    if status != 0:
        last = words.splitlines()[-1] if words else "it gave no answer"
        raise SegueError("E_ARGUMENT", f"The daemon's configuration cannot be read: {last}", field="config")
    found: dict[str, str] = {}
    for line in words.splitlines():
        key, _, rest = line.partition(" = ")
        if key in ("folders.state", "tcp.bind"):
            found[key] = str(ast.literal_eval(rest.rpartition("  # ")[0]))
    return found


def _usual_state() -> str:
    import platformdirs

    return platformdirs.user_state_dir("segue")


# ---- keys and files ----


def _new_pair() -> KeyPair:
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def _read_public(what: str) -> tuple[str, bytes | None, str | None]:
    """(public key, token, name) from a key itself, one of our key files, or a file that holds a key."""
    if is_key(what):
        return what, None, None
    path = Path(what).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise SegueError(
            "E_ARGUMENT", f"{what!r} is neither a public key nor a file that can be read ({error.strerror}).",
            field="key", value=what, allowed="40 characters of Z85, or a file with such a key",
        ) from None  # fmt: skip
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    public: Any = text.strip()
    token, name = None, path.stem
    if isinstance(found, dict):
        public = found.get("client_public_key")
        name = str(found.get("client_name") or name)
        token = _token(found.get("token")) if found.get("curve_public_key") else None
    elif (line := _PUBLIC_LINE.search(text)) is not None:
        public = line[1]
    if not is_key(public):
        raise SegueError(
            "E_ARGUMENT", f"There is no public key in {path}.", field="key", value=what,
            allowed="40 characters of Z85",
        )  # fmt: skip
    return public, token, name


def _token(found: Any) -> bytes | None:
    try:
        token = bytes.fromhex(found)
    except (TypeError, ValueError):
        return None
    return token if len(token) == TOKEN_BYTES else None


def _free(name: str) -> Path:
    out = Path(name).expanduser()
    if os.path.lexists(out):
        raise SegueError(
            "E_ARGUMENT", f"{out} is there already; nothing is written over.", field="out", value=str(out)
        )
    return out


def _put(path: Path, content: bytes) -> None:
    """Write the client's file, mode 0600, never over another."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise SegueError(
            "E_ARGUMENT", f"{path} cannot be written ({error.strerror}).", field="out", value=str(path)
        ) from None
