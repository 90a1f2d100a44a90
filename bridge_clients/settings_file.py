"""A host's own configuration in INI form, of which one line is changed and every other byte stays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 16 << 20
_PATIENCE_S = 5.0


@dataclass
class SettingsFile:
    """The lines of one file; bytes, because hosts write what they like into it."""

    lines: list[bytes]
    newline: bytes
    mode: int

    @classmethod
    def read(cls, path: Path) -> SettingsFile:
        """Read it; a file that is not there has no lines. Raises OSError."""
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
                mode = os.fstat(file.fileno()).st_mode & 0o777
        except FileNotFoundError:
            return cls([], b"\n", 0o600)
        if len(content) > _MOST_BYTES:
            raise OSError(None, "the file is too long to be settings", str(path))
        return cls(content.splitlines(keepends=True), b"\r\n" if b"\r\n" in content else b"\n", mode)

    def content(self) -> bytes:
        """The whole file."""
        return b"".join(self.lines)

    def get(self, section: str, key: str) -> str | None:
        """The value of a key, None when it has none."""
        at, _ = self._find(section, key)
        return self.lines[at].partition(b"=")[2].strip().decode("utf-8", "replace") if at >= 0 else None

    def set(self, section: str, key: str, value: str | None) -> None:
        """Give a key a value; None removes its line (and a section that was left with nothing in it)."""
        at, end = self._find(section, key)
        if value is None:
            if at >= 0:
                del self.lines[at]
                self._drop_if_empty(section)
            return
        line = f"{key}={value}".encode() + self.newline
        if at >= 0:
            self.lines[at] = line
            return
        if self.lines and not self.lines[-1].endswith(b"\n"):
            self.lines[-1] += self.newline
        if end >= 0:
            self.lines.insert(end, line)
        else:
            self.lines += [f"[{section}]".encode() + self.newline, line]

    def _find(self, section: str, key: str) -> tuple[int, int]:
        """(line of the key or -1, line at which the section ends or -1). Keys before any section are in the
        section "".
        """
        inside, end, name = section == "", -1, key.encode()
        for number, line in enumerate(self.lines):
            plain = line.strip()
            if plain.startswith(b"[") and plain.endswith(b"]"):
                inside = plain[1:-1] == section.encode()
                end = number + 1 if inside else end
            elif inside and plain:
                if plain.partition(b"=")[0].strip() == name:
                    return number, end
                end = number + 1
        return -1, end

    def _drop_if_empty(self, section: str) -> None:
        head = f"[{section}]".encode()
        for number, line in enumerate(self.lines):
            if line.strip() != head:
                continue
            after = [rest.strip() for rest in self.lines[number + 1 :] if rest.strip()]
            if not after or after[0].startswith(b"["):
                del self.lines[number]
            return


def runs(program: str) -> bool:
    """Whether a program of that name runs, as far as can be told."""
    name = program.lower()
    if sys.platform.startswith("linux"):
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "comm").read_text().strip().lower() == name[:15]:
                    return True
            except OSError:
                continue
        return False
    words = ["tasklist", "/fo", "csv", "/nh"] if sys.platform == "win32" else ["ps", "-axco", "command"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = {line.split(",")[0].strip().strip('"').lower().removesuffix(".exe") for line in told.splitlines()}
    return name in found
