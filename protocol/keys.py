"""The files that let a client in over the network: the daemon's keys, the list of clients, a client's key.

    <state>/keys/server.json   the daemon's CURVE key pair; the secret key never leaves this file
    <state>/keys/clients.json  who may come in: name, public key and token of each client
    NAME.key                   carried to the client's machine: a connection file with the client's keys in it

The folder has mode 0700, the files 0600, and each is replaced whole. SPEC.md describes them under "Over the
network". Keys are text of 40 characters (Z85). Threading: functions of the files only; writers hold a lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import SegueError
from .limits import MAJOR, TOKEN_BYTES

KEYS_FOLDER = "keys"  # in the state folder
SERVER_FILE, CLIENTS_FILE, LOCK_FILE = "server.json", "clients.json", "lock"
FORMAT = 1
KEY_CHARACTERS = 40
MAX_FILE_BYTES = 1 << 20
MAX_CLIENTS = 1000
LOCK_PATIENCE_S = 5.0
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair as text."""

    public: str
    secret: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class AllowedClient:
    """One client that may come in over tcp. allowed_ms: Unix time."""

    name: str
    public: str
    token: bytes = dataclasses.field(repr=False)
    allowed_ms: int = 0


def is_key(found: Any) -> bool:
    """Whether this is a key as text: 40 characters of Z85, which are 32 bytes."""
    if not isinstance(found, str) or len(found) != KEY_CHARACTERS:
        return False
    digits = [_Z85.find(character) for character in found]
    groups = [digits[at : at + 5] for at in range(0, KEY_CHARACTERS, 5)]
    return min(digits) >= 0 and all(_number(group) < 2**32 for group in groups)


def check_name(name: str) -> str:
    """The name of a client, which becomes a file's name too. Raises E_ARGUMENT."""
    if not _NAME.fullmatch(name):
        raise SegueError(
            "E_ARGUMENT", f"{name!r} is no name for a client.", field="name", value=name,
            allowed="1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first",
        )  # fmt: skip
    return name


def new_token() -> bytes:
    """The capability token of a client that comes over the network; it lasts until the client is revoked."""
    return secrets.token_bytes(TOKEN_BYTES)


def key_file(
    client: AllowedClient, endpoint: str, server_public: str, pair: KeyPair | None = None, build: str = ""
) -> bytes:
    """The file that a client carries to its machine; without `pair` the client puts in its own secret key."""
    found = {
        "endpoints": [endpoint],
        "token": client.token.hex(),
        "curve_public_key": server_public,
        "client_name": client.name,
        "client_public_key": client.public,
        "client_secret_key": pair.secret if pair is not None else None,
        "build": build,
        "protocol": [MAJOR, MAJOR],
    }
    return json.dumps(found, indent=1).encode() + b"\n"


class KeyFolder:
    """`<state>/keys`. Raises E_ARGUMENT for files that are damaged or that others could read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[int, int, int]:
        """Changes whenever the list of clients does; zeros while there is none."""
        try:
            info = os.stat(self.path / CLIENTS_FILE)
        except OSError:
            return (0, 0, 0)
        return (info.st_ino, info.st_mtime_ns, info.st_size)

    def server(self) -> KeyPair | None:
        """The daemon's key pair, None before there is one."""
        found = self._read(SERVER_FILE)
        if found is None:
            return None
        pair = KeyPair(found.get("public_key", ""), found.get("secret_key", ""))
        if not is_key(pair.public) or not is_key(pair.secret):
            raise _wrong(self.path / SERVER_FILE, "does not hold a key pair")
        return pair

    def clients(self) -> tuple[AllowedClient, ...]:
        """Who may come in, oldest first; empty before anybody may."""
        found = self._read(CLIENTS_FILE)
        if found is None:
            return ()
        try:
            made = tuple(_client(entry) for entry in found["clients"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _wrong(self.path / CLIENTS_FILE, "is damaged") from None
        if len({client.name for client in made}) < len(made) or len({c.public for c in made}) < len(made):
            raise _wrong(self.path / CLIENTS_FILE, "names a client or a key twice")
        return made

    def set_server(self, pair: KeyPair) -> KeyPair:
        """Keep this key pair unless there is one already; gives the one that is kept."""
        with self._locked():
            known = self.server()
            if known is None:
                self._write(SERVER_FILE, {"public_key": pair.public, "secret_key": pair.secret})
            return known or pair

    def allow(self, client: AllowedClient) -> None:
        """Let one more client in. Raises E_ARGUMENT when its name or key is on the list already."""
        check_name(client.name)
        if not is_key(client.public) or len(client.token) != TOKEN_BYTES:
            raise SegueError(
                "E_ARGUMENT", "This is not a CURVE public key.", field="key", value=client.public,
                allowed=f"{KEY_CHARACTERS} characters of Z85",
            )  # fmt: skip
        with self._locked():
            known = self.clients()
            for other in known:
                if other.name == client.name or other.public == client.public:
                    what = (
                        f"a client called {other.name}"
                        if other.name == client.name
                        else f"this key ({other.name})"
                    )
                    raise SegueError(
                        "E_ARGUMENT",
                        f"There is {what} already; `segue keys revoke {other.name}` removes it.",
                        field="name" if other.name == client.name else "key", value=client.name,
                    )  # fmt: skip
            if len(known) >= MAX_CLIENTS:
                raise SegueError("E_ARGUMENT", f"{MAX_CLIENTS} clients are allowed already.", field="name")
            self._put([*known, client])

    def revoke(self, name: str) -> AllowedClient:
        """Take a client off the list; gives it. Raises E_ARGUMENT when it is not there."""
        with self._locked():
            known = self.clients()
            for client in known:
                if client.name == name:
                    self._put([other for other in known if other is not client])
                    return client
        names = ", ".join(client.name for client in known) or "nobody"
        raise SegueError(
            "E_ARGUMENT", f"There is no client called {name!r}.", field="name", value=name, allowed=names
        )

    def make(self) -> None:
        """Make the folder, or check that it is ours alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(self.path, os.lstat(self.path), stat.S_ISDIR)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        self.make()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path / LOCK_FILE, flags, 0o600)
        try:
            by = time.monotonic() + LOCK_PATIENCE_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= by:
                        raise _wrong(self.path, "is being changed by another program; try again") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _put(self, clients: Sequence[AllowedClient]) -> None:
        entries = [
            {"name": c.name, "public_key": c.public, "token": c.token.hex(), "allowed_ms": c.allowed_ms}
            for c in clients
        ]
        self._write(CLIENTS_FILE, {"clients": entries})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_private(self.path / name, json.dumps({"format": FORMAT, **content}, indent=1).encode() + b"\n")

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            _check_ours(self.path, os.lstat(self.path), stat.S_ISDIR)
            raw = read_private(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _wrong(path, f"cannot be read ({error.strerror})") from None
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _wrong(path, "is damaged")
        if found.get("format") != FORMAT:
            raise _wrong(path, "was written by a newer Segue")
        return found


def read_private(path: Path) -> bytes:
    """A file of ours that nobody else can read or write. Raises OSError, or E_ARGUMENT when it is not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        _check_ours(path, info, stat.S_ISREG)
        if info.st_size > MAX_FILE_BYTES:
            raise _wrong(path, "is too long")
        return file.read(MAX_FILE_BYTES)


def write_private(path: Path, content: bytes) -> None:
    """Put a file (mode 0600) in place whole or not at all. Raises OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _number(digits: Sequence[int]) -> int:
    value = 0
    for digit in digits:
        value = value * 85 + digit
    return value


def _client(entry: dict[str, Any]) -> AllowedClient:
    name, public, token = entry["name"], entry["public_key"], bytes.fromhex(entry["token"])
    allowed_ms = entry.get("allowed_ms", 0)
    good = isinstance(name, str) and _NAME.fullmatch(name) and is_key(public) and len(token) == TOKEN_BYTES
    if not good or not isinstance(allowed_ms, int):
        raise ValueError(name)
    return AllowedClient(name, public, token, allowed_ms)


def _check_ours(path: Path, info: os.stat_result, right_kind: Any) -> None:
    if not right_kind(info.st_mode):
        raise _wrong(path, "is not what it should be (a link?)")
    if info.st_uid != os.getuid():
        raise _wrong(path, "belongs to another user")
    if info.st_mode & 0o077:
        raise _wrong(path, f"is open to other users (`chmod go= {path}` closes it)")


def _wrong(path: Path, why: str) -> SegueError:
    return SegueError("E_ARGUMENT", f"{path} {why}.", field="keys", value=str(path), retry="never")
