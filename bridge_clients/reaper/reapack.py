"""ReaPack's index, written from the headers of the scripts.

    python -m bridge_clients.reaper.reapack [--base URL]

`--base` is where the folder `scripts` can be fetched from. The index in the repository has a reserved name in
that place: whoever publishes the scripts says where.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote

from bridge_clients.reaper import HERE, SCRIPTS, script_files

PACKAGE = "Segue - Settings.lua"
CATEGORY = "scripts"
UNPUBLISHED = "https://segue.example/reaper"
_TAG = re.compile(r"^-- @(\w+)(?: (.*))?$")


def header(path: Path) -> dict[str, str]:
    """The ReaPack tags at the top of a script; lines of a tag are joined by newlines.

    The header ends with the first line that is no comment, as ReaPack has it.
    """
    tags: dict[str, str] = {}
    last = ""
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("--"):
            break
        match = _TAG.match(line)
        if match:
            last = match[1]
            tags[last] = match[2] or ""
        elif last:
            tags[last] = f"{tags[last]}\n{line[2:].strip()}".strip("\n")
    return tags


def provided(tags: dict[str, str]) -> list[tuple[Path, bool]]:
    """(file, whether it is an action) for each line of `@provides`; "." is the package's own file."""
    found: list[tuple[Path, bool]] = []
    for line in tags.get("provides", "").splitlines():
        match = re.fullmatch(r"\[(main|nomain)\] (.+)", line)
        if match is None:
            raise ValueError(f"@provides: {line!r} is not understood")
        paths = [SCRIPTS / PACKAGE] if match[2] == "." else sorted(SCRIPTS.glob(match[2]))
        if not paths:
            raise ValueError(f"@provides: there is no {match[2]}")
        found += [(path, match[1] == "main") for path in paths]
    return found


def multihash(path: Path) -> str:
    """SHA-256 as ReaPack writes it: 12 (the algorithm), 20 (its length), then the digest, in hex."""
    return "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


def index(base: str = UNPUBLISHED) -> str:
    """The whole index as XML."""
    tags = header(SCRIPTS / PACKAGE)
    root = ET.Element("index", version="1", name="Segue")
    category = ET.SubElement(root, "category", name=CATEGORY)
    pack = ET.SubElement(category, "reapack", name=PACKAGE, type="script", desc=tags["description"])
    version = ET.SubElement(pack, "version", name=tags["version"], author=tags["author"])
    for path, main in provided(tags):
        place = path.relative_to(SCRIPTS).as_posix()
        source = ET.SubElement(version, "source", hash=multihash(path))
        if path.name != PACKAGE:
            source.set("file", place)
        if main:
            source.set("main", "main")
        source.text = f"{base.rstrip('/')}/{CATEGORY}/{quote(place)}"
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def main() -> None:
    """Write `index.xml` beside this file."""
    parser = argparse.ArgumentParser(description="Write ReaPack's index.xml from the scripts' headers.")
    parser.add_argument("--base", default=UNPUBLISHED, help="where the folder `scripts` can be fetched from")
    (HERE / "index.xml").write_text(index(parser.parse_args().base), "utf-8")


if __name__ == "__main__":
    main()

__all__ = ["header", "index", "multihash", "provided", "script_files"]
