"""The command line: what is understood, what is refused, and that a refusal is one sentence and a status."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from bridge_clients.cli.exits import sentence_of, status_of
from bridge_clients.cli.parser import build
from protocol.errors import RETRY_BY_CODE, SegueError
from tests.cli.conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_line_of_the_issue_parses() -> None:
    args = build().parse_args(
        shlex.split(
            "continue in.wav --bars 4 --tempo 120.1 --meter 7/8 --text 'a b' --negative-text c"
            " --variations 3 --seed 7 --model pocket --out d --no-stems --start-at 2.5"
            " --temperature 0.9 --top-k 100 --top-p 0.9 --guidance 3 --json --quiet"
        )
    )
    assert (args.bars, args.tempo, args.meter, args.start_at) == (
        4,
        Fraction("120.1"),
        (7, 8),
        Fraction(5, 2),
    )
    assert (args.variations, args.seed, args.stems, args.json, args.quiet) == (3, 7, False, True, True)


@pytest.mark.parametrize(("text", "bars"), [("4", 4), ("2.5", Fraction(5, 2)), ("7/2", Fraction(7, 2))])
def test_bars_stay_exact(text: str, bars: Fraction) -> None:
    assert build().parse_args(["continue", "a.wav", "--bars", text]).bars == bars


def test_every_command_leads_somewhere() -> None:
    from importlib import import_module

    commands = build()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert len(commands) >= 21
    for parser in commands.values():
        module, function = parser.get_default("run").split(":")
        assert callable(getattr(import_module(f"bridge_clients.cli.{module}"), function))


REFUSED: dict[str, tuple[str, int, str]] = {
    "no such command": ("contnue a.wav", 2, "invalid choice"),
    "unknown flag": (
        "continue a.wav --secnds 3",
        2,
        "unknown words: --secnds 3 (see `segue continue --help`)",
    ),
    "cut flag": ("continue a.wav --sec 3", 2, "unknown words"),
    "no file named": ("continue", 2, "the following arguments are required: IN.wav"),
    "no number": ("continue a.wav --seconds long", 2, "'long' is not a number (allowed: above 0 to 3600)"),
    "negative length": ("continue a.wav --seconds -3", 2, "-3 is out of range (allowed: above 0 to 3600)"),
    "no length": ("continue a.wav --seconds 0", 2, "0 is out of range"),
    "absurd length": ("continue a.wav --seconds 1e9", 2, "1e9 is out of range"),
    "length nan": ("continue a.wav --seconds nan", 2, "nan is out of range"),
    "length inf": ("continue a.wav --seconds inf", 2, "inf is out of range"),
    "no bars": ("continue a.wav --bars 0 --tempo 120", 2, "0 is out of range"),
    "bars by zero": ("continue a.wav --bars 1/0 --tempo 120", 2, "'1/0' is not a number of bars"),
    "absurd bars": ("continue a.wav --bars 99999999 --tempo 120", 2, "out of range"),
    "two lengths": ("continue a.wav --seconds 3 --bars 3", 2, "not allowed with argument"),
    "tempo 0": ("continue a.wav --bars 3 --tempo 0", 2, "0 is out of range (allowed: 1 to 2000)"),
    "meter": ("continue a.wav --bars 3 --tempo 120 --meter 4/5", 2, "4/5 is not a meter"),
    "meter in words": ("continue a.wav --bars 3 --tempo 120 --meter waltz", 2, "'waltz' is not a meter"),
    "17 variations": ("continue a.wav --variations 17", 2, "17 is out of range (allowed: 1 to 16)"),
    "no variation": ("continue a.wav --variations 0", 2, "0 is out of range"),
    "seed": ("continue a.wav --seed -1", 2, "-1 is out of range"),
    "7 channels": ("generate --channels 7", 2, "7 is out of range (allowed: 1 to 2)"),
    "0 Hz": ("generate --rate 0", 2, "0 is out of range (allowed: 8000 to 384000)"),
    "subtype": ("continue a.wav --subtype mp3", 2, "invalid choice: 'mp3'"),
    "missing file": ("continue a.wav --seconds 3", 3, "a.wav is not there"),
    "folder": ("continue . --seconds 3", 3, "is a folder"),
    "not audio": ("continue words.wav --seconds 3", 3, "words.wav is not audio that can be read here"),
    "bars without tempo": ("continue loop.wav --bars 4", 2, "--bars needs the tempo: add --tempo BPM"),
    "generated bars": ("generate --bars 4", 2, "--bars needs the tempo"),
    "meter without tempo": ("continue loop.wav --meter 3/4", 2, "--meter needs the tempo"),
    "too many bars": ("continue loop.wav --bars 9000 --tempo 20", 2, "too long"),
    "seam outside": (
        "continue loop.wav --start-at 9",
        2,
        "--start-at 9 lies outside loop.wav (allowed: above 0",
    ),
    "text of 20 kB": (
        f"generate --seconds 1 --text {'x' * 20_000}",
        2,
        "text must be text of at most 16384 bytes",
    ),
    "out is a file": ("continue loop.wav --out loop.wav", 2, "--out loop.wav is a file; name a folder"),
    "which take": ("takes export", 2, "takes export needs the id of a job"),
    "check what": ("config check", 2, "config check needs the file to check"),
    "no daemon": ("ping", 5, ""),
    "no daemon to ask": ("status", 5, ""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_is_one_sentence_and_a_status(
    kind: str, sandbox: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from bridge_clients.cli.main import main

    (sandbox / "loop.wav").write_bytes(write("loop.wav", 1.0).read_bytes())
    (sandbox / "words.wav").write_text("la la la")
    line, status, words = REFUSED[kind]
    assert main(line.split()) == status
    out, error = capsys.readouterr()
    assert words in error
    assert error.startswith("segue") and error.endswith(".\n") and error.count("\n") == 1
    assert out == ""
    assert sorted(entry.name for entry in sandbox.iterdir()) == ["loop.wav", "words.wav"]


def test_refusals_are_the_same_in_a_process_of_their_own(command: Run) -> None:
    for line, status in (
        ("continue a.wav --seconds 0", 2),
        ("continue a.wav", 3),
        ("ping", 5),
        ("version", 0),
    ):
        done = command(*line.split())
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == (status != 0)


def test_every_code_has_a_status_and_nothing_else_is_zero() -> None:
    for code in [*RETRY_BY_CODE, "E_OF_THE_FUTURE"]:
        assert status_of(SegueError(code, "x")) in (2, 3, 4, 5, 6, 7)


def test_sentences_end_once_and_say_what_is_allowed() -> None:
    error = SegueError("E_ARGUMENT", "seed is\nwrong.", allowed="0 to 9")
    assert sentence_of(error) == "seed is wrong (allowed: 0 to 9)."


def test_a_reader_that_leaves_is_no_failure(sandbox: Path) -> None:
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bridge_clients.cli.main import main; "
    with subprocess.Popen(
        [sys.executable, "-c", source + "sys.exit(main(['version']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


def test_the_readmes_commands_parse() -> None:
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README yet")
    lines = re.findall(r"^\s*(?:\$ )?(segue [^#\n|>&]+)", readme.read_text("utf-8"), re.M)
    for line in lines:
        words = shlex.split(line.strip())[1:]
        try:
            build().parse_args([word for word in words if word != "…"])
        except SystemExit as stop:
            assert not stop.code, line
