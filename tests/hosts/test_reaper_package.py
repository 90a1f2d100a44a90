"""REAPER's scripts as files: lint, the Lua specs, calls held against REAPER's header, ReaPack, installing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bridge_clients import installing as base
from bridge_clients.reaper import SCRIPTS, installing, reapack, script_files
from protocol.errors import SegueError
from tests.daemon.house import ROOT

TESTS = ROOT / "tests" / "hosts" / "reaper"
API = json.loads((TESTS / "api.json").read_text("utf-8"))
IN_AS_WELL = {("GetSet_LoopTimeRange2", "startOut"), ("GetSet_LoopTimeRange2", "endOut")}
# what Lua has and the header has not: (fewest, most) arguments
LUA_ONLY = {"defer": (1, 1), "atexit": (1, 1), "new_array": (1, 2), "set_action_options": (1, 1)}
# ReaImGui's functions, which are asked for before they are used: not in REAPER's header
IMGUI = {
    "ImGui_CreateContext": (1, 2), "ImGui_Begin": (2, 4), "ImGui_End": (1, 1), "ImGui_TextWrapped": (2, 2),
    "ImGui_ProgressBar": (2, 5), "ImGui_Button": (2, 4), "ImGui_SetNextWindowSize": (3, 4),
    "ImGui_Cond_FirstUseEver": (0, 0),
}  # fmt: skip
ACTIONS = {
    "Continue selection", "Accompany selection", "Vary", "Fill time selection", "Generate at cursor",
    "Retake", "Cancel", "Settings",
}  # fmt: skip


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@needs("luacheck")
@pytest.mark.parametrize("folder", [SCRIPTS.parent, TESTS], ids=["scripts", "tests"])
def test_lint(folder: Path) -> None:
    done = subprocess.run(
        ["luacheck", ".", "--no-color", "-q"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@needs("busted")
@needs("lua5.4")
def test_specs(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "busted", f"--lua={shutil.which('lua5.4')}", "-o", "plainTerminal", str(TESTS / "spec"),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        # the wrapper hands its words to a shell, which a path with a semicolon does not survive
        env={
            **os.environ, "LUA_PATH": f"{SCRIPTS}/?.lua;{TESTS}/?.lua;;", "SEGUE_TESTS": str(TESTS),
            "SEGUE_SCRIPTS": str(SCRIPTS),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"(\d+) success", done.stdout)
    assert match and int(match[1]) >= 25, done.stdout


# ---- calls ----


def allowed(name: str) -> tuple[int, int]:
    """(fewest, most) arguments that Lua passes to a function of REAPER."""
    if name in LUA_ONLY or name in IMGUI:
        return {**LUA_ONLY, **IMGUI}[name]
    count = 0
    for _, called in API["functions"][name]["parameters"]:
        out = re.search(r"(Out|OutOptional|OutNeedBig)$", called) and (name, called) not in IN_AS_WELL
        count += not out and not called.endswith("_sz")
    return count, count


def calls(text: str) -> list[tuple[str, int | None]]:
    """(name, arguments) of every `reaper.…` in Lua; None where it is named and not called."""
    text = re.sub(r"--[^\n]*", "", text)
    found: list[tuple[str, int | None]] = []
    for match in re.finditer(r"\breaper\.(\w+)(\s*\()?", text):
        found.append((match[1], arguments(text, match.end()) if match[2] else None))
    return found


def arguments(text: str, at: int) -> int:
    """How many arguments stand between a bracket and its other half."""
    depth, count, quote, any_ = 1, 0, "", False
    while depth:
        char = text[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote, any_ = char, True
        elif char in "([{":
            depth, any_ = depth + 1, True
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 1:
            count += 1
        elif not char.isspace():
            any_ = True
        at += 1
    return count + any_


def wrong_calls(text: str) -> list[str]:
    hits = []
    for name, given in calls(text):
        if name not in API["functions"] and name not in LUA_ONLY and name not in IMGUI:
            hits.append(f"reaper.{name} is not a function of REAPER")
        elif given is not None and not allowed(name)[0] <= given <= allowed(name)[1]:
            hits.append(f"reaper.{name} takes {allowed(name)} arguments, not {given}")
    return hits


@pytest.mark.parametrize("path", script_files(), ids=lambda path: path.name)
def test_every_call_is_in_reapers_header(path: Path) -> None:
    assert not wrong_calls(path.read_text("utf-8"))


def test_wrong_calls_are_seen() -> None:
    assert wrong_calls("reaper.MakeMusic()") and wrong_calls("x = reaper.CountTracks()")
    assert wrong_calls("reaper.GetSet_LoopTimeRange2(proj, false, false)")
    assert wrong_calls("reaper.defer()") and wrong_calls("reaper.InsertTrackInProjekt")
    assert not wrong_calls('reaper.MB("a, b (c", f(1, 2), 0) -- reaper.Nothing(1)')


def test_the_extract_holds_what_is_used() -> None:
    used = {name for path in script_files() for name, _ in calls(path.read_text("utf-8"))}
    assert used - set(LUA_ONLY) - set(IMGUI) <= set(API["functions"])
    assert len(used) > 60 and "7.78" in API["source"]


_REACHES_OUT = r"os\.execute|io\.popen|loadstring|(?<![.\w])load\(|dofile|CF_ShellExecute"


def test_nothing_runs_a_shell_or_reaches_out() -> None:
    for path in script_files():
        text = re.sub(r"--[^\n]*", "", path.read_text("utf-8"))
        assert not re.search(_REACHES_OUT, text), path


# ---- ReaPack ----


def test_headers() -> None:
    versions = set()
    for path in SCRIPTS.glob("*.lua"):
        tags = reapack.header(path)
        assert tags["description"] == "Segue: " + path.stem.removeprefix("Segue - ")
        assert tags["author"] and tags["about"]
        assert ("noindex" in tags) == (path.name != reapack.PACKAGE)
        versions.add(tags["version"])
        first = path.read_text("utf-8").split("\n\n")[0].splitlines()
        assert all(line.startswith("--") for line in first), "the header has no gap"
    assert {path.stem.removeprefix("Segue - ") for path in SCRIPTS.glob("*.lua")} == ACTIONS
    assert len(versions) == 1 and re.fullmatch(r"\d+\.\d+\.\d+", versions.pop())
    for path in (SCRIPTS / "segue").glob("*.lua"):
        assert path.read_text("utf-8").startswith("-- @noindex\n"), path


def test_index_names_every_file_with_its_hash() -> None:
    stored = (SCRIPTS.parent / "index.xml").read_text("utf-8")
    assert stored == reapack.index(), "write it again: python -m bridge_clients.reaper.reapack"
    version = ET.fromstring(stored).find("category/reapack/version")
    assert version is not None
    assert version.get("name") == reapack.header(SCRIPTS / reapack.PACKAGE)["version"]
    sources = {source.get("file", reapack.PACKAGE): source for source in version}
    assert sorted(sources) == sorted(path.relative_to(SCRIPTS).as_posix() for path in script_files())
    for name, source in sources.items():
        assert source.get("hash") == reapack.multihash(SCRIPTS / name)
        assert (source.get("main") == "main") == ("/" not in name)
        assert source.text and " " not in source.text and source.text.startswith(reapack.UNPUBLISHED)
    assert "https://a.example/x/scripts/segue/json.lua" in reapack.index("https://a.example/x/")


# ---- installing ----


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", ".config/REAPER"),
        ("darwin", "Library/Application Support/REAPER"),
        ("win32", "AppData/Roaming/REAPER"),
    ],
)
def test_files_go_where_reaper_looks(tmp_path: Path, platform: str, folder: str) -> None:
    command = tmp_path / "segue"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    environment = {"SEGUE_COMMAND": str(command)}
    with pytest.raises(SegueError, match="start REAPER once"):
        installing.files(platform, tmp_path, environment)
    assert installing.check(platform, tmp_path, environment) == []
    (tmp_path / folder).mkdir(parents=True)
    (note,) = installing.check(platform, tmp_path, environment)
    assert note.level == base.NOTE and note.advice == "segue install reaper"
    copies = installing.files(platform, tmp_path, environment)
    target = tmp_path / folder / "Scripts" / "Segue"
    assert {copy.target.relative_to(target).as_posix() for copy in copies} == {
        *(path.relative_to(SCRIPTS).as_posix() for path in script_files()), "segue-command.txt",
    }  # fmt: skip
    for copy in copies:
        copy.target.parent.mkdir(parents=True, exist_ok=True)
        copy.target.write_bytes(copy.content())
    assert {found.level for found in installing.check(platform, tmp_path, environment)} == {base.OK}
    (target / "segue" / "json.lua").write_text("changed")
    assert base.BAD in {found.level for found in installing.check(platform, tmp_path, environment)}
