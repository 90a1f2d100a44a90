"""The house's own rules, held by machine: who imports what, how long files grow, what is never written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocol", "genmodel", "daemon", "bridge_clients")
MAX_LINES = 420

# room -> what it may never import, anywhere in its files
FORBIDDEN = {
    "protocol": {"zmq", "torch", "numpy", "daemon", "genmodel", "bridge_clients", "omegaconf"},
    "genmodel": {"zmq", "protocol", "daemon", "bridge_clients"},
    "daemon": {"bridge_clients"},
    "bridge_clients": {"torch", "daemon", "genmodel", "omegaconf"},
}
# the daemon's front-end answers within 50 ms because the models live in another process
WORKER_ONLY = {"torch", "genmodel", "soxr", "numpy"}
# what `segue ping` may not pay for: heavy imports stay inside the functions that need them
LAZY_IN_CLIENTS = {"numpy", "soundfile", "matplotlib", "rich", "asyncio"}


def python_files(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Top packages that a file imports; with top_level_only just those paid for at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name.split(".")[0] for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
                found.add(child.module.split(".")[0])
            elif top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif top_level_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            else:
                visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in python_files(room)
        if (bad := imports_of(path) & FORBIDDEN[room])
    }
    assert python_files(room), f"{room} has no Python files"
    assert not wrong, f"imports against the house's arrows: {wrong}"


def test_the_front_end_never_imports_what_only_workers_need() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in python_files("daemon")
        if "workers" not in path.parts and (bad := imports_of(path) & WORKER_ONLY)
    }
    assert not wrong, wrong


def test_clients_import_heavy_things_only_where_they_are_used() -> None:
    exempt = {"async_client.py"}  # asyncio is what that file is
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in python_files("bridge_clients")
        if path.name not in exempt and (bad := imports_of(path, top_level_only=True) & LAZY_IN_CLIENTS)
    }
    assert not wrong, wrong


@pytest.mark.parametrize("room", ROOMS)
def test_modules_stay_readable_and_say_what_they_are(room: str) -> None:
    for path in python_files(room):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= MAX_LINES, f"{path.relative_to(ROOT)} has outgrown one reason to exist"
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} does not say what it is"


def test_each_room_is_typed_and_introduces_itself() -> None:
    for room in ROOMS:
        assert (ROOT / room / "py.typed").is_file(), room
        assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))), room


# what turns bytes from elsewhere into running code, and libraries that do so behind a harmless face
CODE_FROM_BYTES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle",
    "multiprocessing", "xmlrpc", "code", "codeop", "imp", "runpy",
}  # fmt: skip
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
DANGEROUS_METHODS = {
    "recv_pyobj", "send_pyobj", "send_serialized", "recv_serialized", "unsafe_load", "full_load",
}  # fmt: skip
DANGEROUS_PAIRS = {
    ("yaml", "load"), ("yaml", "load_all"), ("asyncio", "create_subprocess_shell"), ("os", "system"),
    ("os", "popen"),
}  # fmt: skip
DANGEROUS_TEXT = re.compile(r"0\.0\.0\.0|tcp://\*")


def dangers_of(source: str) -> list[str]:
    """`line: what` for everything that could run what a stranger sent, or open a door to everybody."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        what = None
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            names = [name for name in names if CODE_FROM_BYTES & set(name.split("."))]
            what = f"import {names[0]}" if names and not getattr(node, "level", 0) else None
        elif isinstance(node, ast.Call):
            called = node.func
            given = {
                word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)
            }
            if isinstance(called, ast.Name) and called.id in DANGEROUS_CALLS:
                what = called.id
            elif isinstance(called, ast.Attribute):
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if called.attr in DANGEROUS_METHODS or (owner, called.attr) in DANGEROUS_PAIRS:
                    what = f"{owner}.{called.attr}"
                elif (owner, called.attr) == ("torch", "load") and given.get("weights_only") is not True:
                    what = "torch.load without weights_only=True"
            if given.get("shell") or given.get("allow_pickle"):
                what = "shell or allow_pickle"
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and DANGEROUS_TEXT.search(node.value)
        ):
            what = f"the text {DANGEROUS_TEXT.search(node.value)!r}"
        if what:
            found.append(f"{getattr(node, 'lineno', 0)}: {what}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_dangerous_is_written(room: str) -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{danger}"
        for path in python_files(room)
        for danger in dangers_of(path.read_text(encoding="utf-8"))
        # the recipe trains on its owner's machine and hears nobody; it may share work among its own processes
        if not ("recipe" in path.parts and danger.endswith("import multiprocessing"))
    ]
    assert not hits, hits


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch.multiprocessing", "import marshal as m",
        "from multiprocessing import Queue", "eval(x)", "exec(x)", "__import__(x)", "s.recv_pyobj()",
        "s.send_pyobj(1)", "os.system(x)", "subprocess.run(x, shell=True)", "yaml.load(x)", "os.popen(x)",
        "yaml.unsafe_load(x)", "torch.load(x)", "np.load(x, allow_pickle=True)", "s.bind('tcp://*:1')",
        "torch.load(x, weights_only=False)", "s.bind('tcp://0.0.0.0:1')",
    ],
)  # fmt: skip
def test_dangers_are_seen(source: str) -> None:
    assert dangers_of(source), source
    assert not dangers_of(
        "model.eval(); re.compile(x); ast.literal_eval(x); torch.load(x, weights_only=True)"
    )


def test_no_bare_assert_guards_input() -> None:
    hits = []
    for room in ROOMS:
        for path in python_files(room):
            if "recipe" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Assert):
                    hits.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not hits, hits


def test_torch_is_held_to_the_tested_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch_requirement,) = [d for d in project["dependencies"] if re.match(r"torch\b", d)]
    assert torch_requirement == "torch>=2.10,<2.14"


def test_the_readme_carries_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("run", "test"):
        block = re.search(rf"<!--\s*fresh:\s*{name}\s*-->\s*\n+```(?:sh|bash)?\n(.*?)\n```", readme, re.S)
        assert block, f"README.md lacks the block marked fresh: {name}"
        assert len(block.group(1).strip().splitlines()) == 1, f"the {name} block is one line"


@pytest.mark.parametrize("command", [["check", "-q"], ["format", "-q", "--check"]], ids=["lint", "format"])
def test_ruff_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
