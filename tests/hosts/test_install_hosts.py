"""`segue install` with the hosts' own modules: into a home that looks like a user's, and out of it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_clients import host_files
from bridge_clients.cli.main import main
from bridge_clients.installing import COMMAND_VARIABLE, HOSTS, TO_VARIABLE, Copy, Setting
from protocol.errors import SegueError

FOLDERS = {
    "linux": [".config/REAPER/Scripts", ".config/ardour7", ".config/ardour8", ".config/audacity"],
    "darwin": [
        "Library/Application Support/REAPER", "Library/Preferences/Ardour8",
        "Library/Application Support/audacity",
    ],
    "win32": ["AppData/Roaming/REAPER", "AppData/Roaming/audacity"],
}  # fmt: skip
CFG = b"PrefsVersion=1.1.1r1\n[Module]\nmod-script-pipe=4\n[Window]\nMaximized=0\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    made = tmp_path / "home"
    for folders in FOLDERS.values():
        for folder in folders:
            (made / folder).mkdir(parents=True, exist_ok=True)
    (made / ".config/audacity/audacity.cfg").write_bytes(CFG)
    program = tmp_path / "bin" / "segue"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("XDG_CONFIG_HOME", "APPDATA", TO_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv(COMMAND_VARIABLE, str(program))
    monkeypatch.setenv("SEGUE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(host_files, "runs", lambda _: False)  # others test with the real Audacity beside us
    yield made


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def wanted(host: str, platform: str, home: Path) -> list[Copy | Setting]:
    try:
        return list(host_files.wanted(host, platform, home, os.environ))
    except SegueError as error:
        assert host == "audacity" or (host, platform) == ("ardour", "win32"), error
        return []


@pytest.mark.parametrize("platform", FOLDERS)
@pytest.mark.parametrize("host", HOSTS)
def test_everything_goes_into_the_hosts_own_folders(host: str, platform: str, home: Path) -> None:
    for want in wanted(host, platform, home):
        assert any(want.target.is_relative_to(home / folder) for folder in FOLDERS[platform]), want
        if isinstance(want, Copy):
            assert want.content()


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are those of Linux")
@pytest.mark.parametrize("host", HOSTS)
def test_a_home_is_as_it_was_afterwards(host: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not wanted(host, "linux", home):
        pytest.skip(f"{host} is not installed on this machine")
    before = snapshot(home)
    assert main(["install", host, "--dry-run"]) == 0
    assert snapshot(home) == before
    assert main(["install", host]) == 0
    assert snapshot(home) != before
    found = [f for f in host_files.findings(environment=os.environ) if f.what == host]
    assert found and not [f for f in found if f.level == "bad"]
    capsys.readouterr()
    assert main(["install", host]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["install", host, "--uninstall"]) == 0
    assert snapshot(home) == before


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are those of Linux")
@pytest.mark.parametrize("host", ["reaper", "ardour"])
def test_a_command_that_moved_is_found_by_the_doctor(host: str, home: Path, tmp_path: Path) -> None:
    assert main(["install", host]) == 0
    (tmp_path / "bin" / "segue").unlink()
    bad = [f for f in host_files.findings(environment=os.environ) if f.what == host and f.level == "bad"]
    assert bad and any("no program" in f.found for f in bad) and "segue install" in bad[0].advice


@pytest.mark.parametrize("host", ["reaper", "ardour"])
def test_another_place_can_be_named(host: str, home: Path, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    usb.mkdir()
    before = snapshot(home)
    assert main(["install", host, "--to", str(usb)]) == 0
    assert snapshot(home) == before and list(usb.rglob("*.lua"))
    assert main(["install", host, "--uninstall"]) == 0
    assert list(usb.rglob("*")) == []


@pytest.mark.parametrize("host", ["reaper", "ardour"])
def test_a_machine_without_the_host_is_told_what_to_do(
    host: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["install", host]) == 2
    assert "--to" in capsys.readouterr().err
