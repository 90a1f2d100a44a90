"""A hub on the loopback address that serves folders as Hugging Face's does, faults included."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 50_000  # what git LFS would hold, with a SHA-256


def stated(path: Path) -> dict[str, Any]:
    """A file as the hub's listing states it."""
    data = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": path.name, "size": len(data), "blobId": blob}
    if len(data) >= LARGE_BYTES:
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


class LoopbackHub:
    """``repos`` maps org/name to a folder. ``requests`` records (method, path, range). Faults, by file name:
    ``cut`` (bytes after which the connection drops, once), ``damage`` (the first byte is another),
    ``status``.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: dict[str, int] = {}
        self.damage: set[str] = set()
        self.status: dict[str, int] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def downloads(self) -> list[str]:
        """Names of the files that were fetched (not only asked about)."""
        return [
            path.rpartition("/")[2]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlparse(request.path).path
        self.requests.append((request.command, path, request.headers.get("Range")))
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/")
            if repo in self.status:
                return self._refuse(request, self.status[repo])
            if repo not in self.repos:
                return self._refuse(request, 404, "RepoNotFound")
            files = sorted(file for file in self.repos[repo].iterdir() if file.is_file())
            body = {"id": repo, "sha": COMMIT, "siblings": [stated(file) for file in files]}
            return self._send(request, json.dumps(body).encode(), {"Content-Type": "application/json"})
        repo, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.repos.get(repo, Path("/nowhere")) / name
        if not file.is_file():
            return self._refuse(request, 404, "EntryNotFound")
        entry = stated(file)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        data = file.read_bytes()
        if name in self.damage:
            data = bytes([data[0] ^ 1]) + data[1:]
        return self._send(
            request, data, headers, self.cut.pop(name, None) if request.command == "GET" else None
        )

    @staticmethod
    def _refuse(request: BaseHTTPRequestHandler, status: int, code: str = "") -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        start = 0
        asked = request.headers.get("Range")
        if asked and asked.startswith("bytes=") and request.command == "GET":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut is not None:
            request.wfile.write(data[start : start + cut])
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(data[start:])
