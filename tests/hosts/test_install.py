"""`segue install`: what goes into a host comes back out, and nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_clients import host_files, installing, settings_file
from bridge_clients.cli.main import main
from bridge_clients.host_files import Memory, install, uninstall
from bridge_clients.installing import Copy, Finding, Setting, command_file, command_path
from protocol.errors import SegueError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "package" / "continue.lua"
    path.parent.mkdir()
    path.write_text("-- one\n")
    return path


@pytest.fixture
def wants(source: Path, tmp_path: Path) -> list[Copy | Setting]:
    host = tmp_path / "host"
    return [
        Copy(host / "Scripts" / "Segue" / "continue.lua", source=source),
        Copy(host / "Scripts" / "Segue" / "segue.path", text="/opt/segue\n"),
    ]


def memory(tmp_path: Path) -> Memory:
    return Memory.of("reaper", tmp_path / "installed")


def did(steps: Any) -> list[str]:
    return [step.did for step in steps]


def test_what_was_installed_is_taken_back(wants: list[Copy | Setting], tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    assert did(install(wants, memory(tmp_path), dry=True)) == ["written", "written"]
    assert not list((tmp_path / "host").iterdir()) and memory(tmp_path).empty
    assert did(install(wants, memory(tmp_path))) == ["written", "written"]
    assert wants[0].target.read_text() == "-- one\n" and wants[1].target.read_text() == "/opt/segue\n"
    assert wants[0].target.stat().st_mode & 0o777 == 0o644
    assert did(install(wants, memory(tmp_path))) == ["as it was", "as it was"]
    assert did(uninstall(memory(tmp_path), dry=True)) == ["removed", "removed"]
    assert wants[0].target.exists()
    assert did(uninstall(memory(tmp_path))) == ["removed", "removed"]
    assert list((tmp_path / "host").iterdir()) == []
    assert memory(tmp_path).empty and not (tmp_path / "installed" / "reaper.json").exists()


def test_a_changed_file_is_kept_and_said(wants: list[Copy | Setting], source: Path, tmp_path: Path) -> None:
    list(install(wants, memory(tmp_path)))
    wants[0].target.write_text("-- mine\n")
    source.write_text("-- two\n")
    steps = list(install(wants, memory(tmp_path)))
    assert did(steps) == ["kept", "as it was"] and "changed" in steps[0].remark
    assert did(uninstall(memory(tmp_path))) == ["kept", "removed"]
    assert wants[0].target.read_text() == "-- mine\n"


def test_an_update_replaces_its_own_and_removes_what_is_no_more(
    wants: list[Copy | Setting], source: Path, tmp_path: Path
) -> None:
    list(install(wants, memory(tmp_path)))
    source.write_text("-- two\n")
    assert did(install(wants[:1], memory(tmp_path))) == ["removed", "written"]
    assert wants[0].target.read_text() == "-- two\n" and not wants[1].target.exists()


def test_a_file_of_somebody_else_and_a_link_are_left_alone(
    wants: list[Copy | Setting], tmp_path: Path
) -> None:
    wants[0].target.parent.mkdir(parents=True)
    wants[0].target.write_text("theirs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    wants[1].target.symlink_to(elsewhere)
    assert did(install(wants, memory(tmp_path))) == ["kept", "kept"]
    assert wants[0].target.read_text() == "theirs" and elsewhere.read_text() == "precious"
    assert did(uninstall(memory(tmp_path))) == []


def test_what_is_half_done_is_remembered(wants: list[Copy | Setting], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken: list[Copy | Setting] = [*wants, Copy(tmp_path / "file" / "x.lua", text="x")]
    with pytest.raises(SegueError) as caught:
        list(install(broken, memory(tmp_path)))
    assert caught.value.code == "E_ARGUMENT"
    assert did(uninstall(memory(tmp_path))) == ["removed", "removed"]


CFG = b"Language=en\r\n[Module]\r\nmod-script-pipe=4\r\nmod-other=1\r\n\r\n[Window]\r\nWidth=3\r\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CFG, CFG.replace(b"pipe=4", b"pipe=1")),
        (b"[Module]\nother=1\n\n[W]\nx=1\n", b"[Module]\nother=1\nmod-script-pipe=1\n\n[W]\nx=1\n"),
        (b"[Window]\nx=1", b"[Window]\nx=1\n[Module]\nmod-script-pipe=1\n"),
    ],
)  # fmt: skip
def test_a_setting_is_one_line_and_put_back(before: bytes, after: bytes, tmp_path: Path) -> None:
    cfg = tmp_path / "audacity.cfg"
    cfg.write_bytes(before)
    cfg.chmod(0o640)
    want = Setting(cfg, "Module", "mod-script-pipe", "1")
    assert did(install([want], memory(tmp_path))) == ["set"]
    assert cfg.read_bytes() == after and cfg.stat().st_mode & 0o777 == 0o640
    assert did(install([want], memory(tmp_path))) == ["as it was"]
    assert did(uninstall(memory(tmp_path))) == ["put back"]
    assert cfg.read_bytes() == (before if before.endswith(b"\n") else before + b"\n")


def test_a_setting_that_the_user_changed_since_is_kept(tmp_path: Path) -> None:
    cfg = tmp_path / "audacity.cfg"
    cfg.write_bytes(CFG)
    list(install([Setting(cfg, "Module", "mod-script-pipe", "1")], memory(tmp_path)))
    cfg.write_bytes(CFG.replace(b"pipe=4", b"pipe=0"))
    assert did(uninstall(memory(tmp_path))) == ["kept"]
    assert b"pipe=0" in cfg.read_bytes()


def test_settings_of_a_host_that_runs_are_not_touched(tmp_path: Path) -> None:
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip() if sys.platform == "linux" else "python"
    assert settings_file.runs(name) and not settings_file.runs("no-such-program-here")
    cfg = tmp_path / "audacity.cfg"
    cfg.write_bytes(CFG)
    with pytest.raises(SegueError, match="quit it"):
        list(install([Setting(cfg, "Module", "mod-script-pipe", "1", process=name)], memory(tmp_path)))
    assert cfg.read_bytes() == CFG


def test_the_command_is_found_or_refused(tmp_path: Path) -> None:
    program = tmp_path / "segue"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(SegueError):
        command_path({"SEGUE_COMMAND": str(program)})
    program.chmod(0o700)
    named = command_file(tmp_path / "segue.path", {"SEGUE_COMMAND": str(program)})
    assert named.text == f"{program}\n"
    named.target.write_bytes(named.content())
    assert installing.check_command_file("reaper", named.target).level == installing.OK
    program.unlink()
    assert installing.check_command_file("reaper", named.target).level == installing.BAD
    assert installing.check_command_file("reaper", tmp_path / "none").level == installing.BAD


@pytest.fixture
def fake_host(
    wants: list[Copy | Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[types.ModuleType]:
    """A host's module that asks for `wants`; it stands where `bridge_clients.reaper.installing` would."""
    made = types.ModuleType("bridge_clients.reaper.installing")

    def files(platform: str, home: Path, environment: dict[str, str]) -> list[Copy | Setting]:
        root = installing.chosen_folder(environment)
        return wants if root is None else [Copy(root / w.target.name, text="there\n") for w in wants]

    made.files = files  # type: ignore[attr-defined]
    made.check = lambda *_: [Finding("reaper", "is here")]  # type: ignore[attr-defined]
    made.AFTERWARDS = "Load the actions in REAPER."  # type: ignore[attr-defined]
    package = types.ModuleType("bridge_clients.reaper")
    package.__path__ = []
    package.__spec__ = types.SimpleNamespace(name="bridge_clients.reaper")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "bridge_clients.reaper", package)
    monkeypatch.setitem(sys.modules, "bridge_clients.reaper.installing", made)
    monkeypatch.setenv("SEGUE_STATE", str(tmp_path / "state"))
    yield made


Say = Callable[[], str]


def test_the_command_says_what_it_did(
    fake_host: types.ModuleType,
    wants: list[Copy | Setting],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["install", "reaper", "--dry-run"]) == 0
    assert "Nothing was changed" in capsys.readouterr().out and not wants[0].target.exists()
    assert main(["install", "reaper"]) == 0
    out = capsys.readouterr().out
    assert (
        str(wants[0].target) in out
        and "Load the actions" in out
        and "To undo this: segue install reaper --uninstall" in out
    )
    found = [f for f in host_files.findings(environment=os.environ) if f.what == "reaper"]
    assert [f.level for f in found] == ["ok"]
    wants[1].target.unlink()
    assert "bad" in [f.level for f in host_files.findings(environment=os.environ) if f.what == "reaper"]
    assert main(["install", "reaper", "--uninstall", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["did"] for line in told] == ["removed", "gone already"]
    assert main(["install", "reaper", "--uninstall"]) == 0
    assert "Nothing of reaper" in capsys.readouterr().out
    (tmp_path / "usb").mkdir()
    assert main(["install", "reaper", "--to", str(tmp_path / "usb")]) == 0
    assert (tmp_path / "usb" / "continue.lua").read_text() == "there\n"
    assert main(["install", "reaper", "--to", str(tmp_path / "nowhere")]) == 2


def test_a_damaged_memory_is_said(
    fake_host: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state" / "installed"
    folder.mkdir(parents=True)
    (folder / "reaper.json").write_text("{")
    assert main(["install", "reaper"]) == 2
    assert "reaper.json" in capsys.readouterr().err


def test_what_hosts_need_is_in_the_wheel(tmp_path: Path) -> None:
    """Every file of bridge_clients that git knows is packed, whatever it is called."""
    root = Path(__file__).resolve().parents[2]
    listed = subprocess.run(
        ["git", "-c", "core.quotePath=off", "ls-files", "bridge_clients"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    pytest.importorskip("hatchling.build", reason="hatchling is not installed here")
    if not listed:
        pytest.skip("this is no checkout")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "SEGUE_NATIVE": "0"},  # the kernels have a test of their own
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert not [name for name in listed if name not in packed]
