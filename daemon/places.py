"""On what kind of file system a folder lies. A journal on a network drive is refused: its locks and its sync
cannot be relied on, and a promise that nothing is lost would be a lie there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

NETWORK_KINDS = frozenset(
    "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs afpfs ncpfs webdav davfs ceph lustre glusterfs"
    " sshfs rclone davfs2 gvfsd-fuse s3fs goofys".split()
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mounted file system: where, of what kind, from what."""

    point: str
    kind: str
    source: str

    @property
    def on_network(self) -> bool:
        """Whether another machine keeps the files."""
        return self.kind.removeprefix("fuse.") in NETWORK_KINDS


def mount_of(path: Path) -> Mount | None:
    """The file system on which `path` (or the nearest folder above it that exists) lies; None if unknown."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    try:
        if sys.platform == "darwin":
            said = subprocess.run(
                ["/sbin/mount"], capture_output=True, text=True, timeout=2, check=False
            ).stdout
            mounts = mac_mounts(said)
        else:
            mounts = linux_mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    except (OSError, subprocess.TimeoutExpired):
        return None
    return holding(os.path.realpath(there), mounts)


def linux_mounts(text: str) -> list[Mount]:
    """Lines of /proc/self/mountinfo."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, kinds = left.split(" "), right.split(" ")
        if dash and len(fields) > 4 and len(kinds) > 1:
            found.append(Mount(_plain(fields[4]), kinds[0], _plain(kinds[1])))
    return found


def mac_mounts(text: str) -> list[Mount]:
    """Lines of mount(8): ``//me@host/share on /Volumes/share (smbfs, nodev, ...)``."""
    pattern = re.compile(r"(.*?) on (/.*) \(([a-z0-9_]+)[,)]")
    return [Mount(m[2], m[3], m[1]) for line in text.splitlines() if (m := pattern.match(line))]


def holding(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that a path lies on: the deepest, and of several at one place the last."""
    best: Mount | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def refusal(path: Path) -> str | None:
    """A sentence when no journal may be kept in this folder."""
    mount = mount_of(path)
    if mount is None or not mount.on_network:
        return None
    return (
        f"{path} lies on a network drive ({mount.kind}, {mount.source}), where neither locks nor sync can be"
        " relied on: set SEGUE_STATE to a folder on a disk of this machine."
    )


def _plain(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
