"""Ardour's scripts without Ardour: put together as committed, good Lua, JSON that carries every text."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge_clients.ardour import compose, installing
from bridge_clients.installing import BAD, COMMAND_VARIABLE, OK, TO_VARIABLE
from protocol.errors import SegueError

LUA = shutil.which("lua5.3") or shutil.which("lua5.4") or shutil.which("lua")
needs_lua = pytest.mark.skipif(LUA is None, reason="lua is not installed")
needs_luacheck = pytest.mark.skipif(shutil.which("luacheck") is None, reason="luacheck is not installed")
_OF_ARDOUR = (
    "Session Editor ARDOUR ArdourUI Editing Temporal PBD C LuaDialog LuaSignal ardour factory signals"
)


def _lua(code: str, *words: str) -> str:
    assert LUA is not None
    done = subprocess.run(
        [LUA, "-", *words], input=code.encode(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_committed_scripts_are_the_parts_put_together() -> None:
    made = compose.scripts()
    folder = compose.HERE / "scripts"
    assert {path.name for path in folder.iterdir()} == set(made)
    for name, text in made.items():
        assert (folder / name).read_text("utf-8") == text, "run python -m bridge_clients.ardour.compose"


@pytest.mark.parametrize("name", sorted(compose.scripts()))
def test_each_script_declares_itself_and_needs_no_other_file(name: str) -> None:
    text = compose.scripts()[name]
    assert text.startswith("ardour {\n") and '\tname        = "Segue: ' in text
    kind = "EditorHook" if name == "segue_jobs.lua" else "EditorAction"
    assert f'["type"]    = "{kind}"' in text
    for word in ("require", "dofile", "debug.", "coroutine.", "rawget", "rawset", "io.popen", "os.execute"):
        assert word not in text, f"Ardour's sandbox has no {word}, and no shell is ever started"


@needs_luacheck
@pytest.mark.parametrize("name", sorted(compose.scripts()))
def test_luacheck_finds_nothing(name: str) -> None:
    path = compose.HERE / "scripts" / name
    # 143: os.forkexec is Ardour's own; the others: an action holds all actions' parts and uses some
    done = subprocess.run(
        ["luacheck", "--std", "lua53", "--globals", *_OF_ARDOUR.split(), "--ignore", "143", "211", "212",
         "431", "--no-max-line-length", "--no-color", "-q", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@needs_lua
def test_json_carries_every_value_there_and_back(tmp_path: Path) -> None:
    draw = random.Random(11)
    signs = ['"', "\\", "\n", "\r", "\t", "\0", "\x1f", "\x7f", "$(id)", "é", "日", "🎷", "/", "' ; `"]

    def value(depth: int) -> object:
        kind = draw.randrange(8 if depth < 4 else 6)
        if kind == 0:
            return draw.randrange(-(2**53), 2**53)
        if kind == 1:
            return draw.uniform(-1e9, 1e9)
        if kind in (2, 3):
            return "".join(draw.choice(signs) for _ in range(draw.randrange(20)))
        if kind == 4:
            return draw.random() < 0.5
        if kind == 5:
            return 10.0 ** draw.randrange(-12, 12)
        if kind == 6:
            return [value(depth + 1) for _ in range(draw.randrange(5))]
        return {value_name(): value(depth + 1) for _ in range(draw.randrange(5))}

    def value_name() -> str:
        return "".join(draw.choice(signs) for _ in range(1 + draw.randrange(6)))

    values = [[value(0)] for _ in range(300)] + [["x" * 10_000], [None, 1], {"a": [], "b": {}}]
    part = (compose.HERE / "parts" / "json.lua").read_text("utf-8")
    for ascii_only in (True, False):
        (tmp_path / "in").write_text(
            "\n".join(json.dumps(v, ensure_ascii=ascii_only) for v in values), "utf-8"
        )
        code = f"{part}\nfor line in io.lines (arg[1]) do print (json.write (assert (json.read (line)))) end"
        lines = _lua(code, str(tmp_path / "in")).splitlines()
        found = [json.loads(line) for line in lines]
        for got, given in zip(found, values, strict=True):
            assert got == given
    broken = ['{"a":1', '"', "[1,]", "[1 2]", '{"a" 1}', "nul", "1 2", "\\", '"\\u12', "", "[" * 200]
    (tmp_path / "bad").write_text("\n".join(broken))
    code = f"{part}\nfor line in io.lines (arg[1]) do print (json.read (line) == nil) end"
    assert _lua(code, str(tmp_path / "bad")).split() == ["true"] * len(broken)


def test_the_scripts_go_where_ardour_looks_and_are_checked(tmp_path: Path) -> None:
    program = tmp_path / "segue"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    environment = {COMMAND_VARIABLE: str(program)}
    with pytest.raises(SegueError, match="start Ardour once"):
        installing.files("linux", tmp_path, environment)
    with pytest.raises(SegueError, match="Windows"):
        installing.files("win32", tmp_path, environment)
    for version in ("ardour7", "ardour8"):
        (tmp_path / ".config" / version).mkdir(parents=True)
    copies = installing.files("linux", tmp_path, environment)
    assert len(copies) == 2 * (len(compose.scripts()) + 1)
    assert {copy.target.parent for copy in copies} == {
        tmp_path / ".config" / version / "scripts" for version in ("ardour7", "ardour8")
    }
    assert {f.level for f in installing.check("linux", tmp_path, environment)} == {"note"}
    for copy in copies:
        copy.target.parent.mkdir(exist_ok=True)
        copy.target.write_bytes(copy.content())
    found = installing.check("linux", tmp_path, environment)
    assert [f.level for f in found] == [OK, "note"] * 2 and "hook" in found[1].found
    code = base64.b64encode(b"s = {} s['n'] = 'x' -- Segue: jobs").decode()
    hooks = f'<LuaCallback lua="Lua 5.3" id="1" name="mine">{code}</LuaCallback>'
    for version in ("ardour7", "ardour8"):
        (tmp_path / ".config" / version / "ui_scripts").write_text(hooks)
    assert [f.level for f in installing.check("linux", tmp_path, environment)] == [OK, OK]
    (tmp_path / ".config/ardour7/scripts/segue_jobs.lua").write_text("-- an old one")
    assert BAD in [f.level for f in installing.check("linux", tmp_path, environment)]
    there = installing.files("linux", tmp_path, {**environment, TO_VARIABLE: str(tmp_path / "to")})
    assert {copy.target.parent for copy in there} == {tmp_path / "to"}
    mac = tmp_path / "Library" / "Preferences" / "Ardour8"
    mac.mkdir(parents=True)
    assert installing.files("darwin", tmp_path, environment)[0].target.parent == mac / "scripts"
