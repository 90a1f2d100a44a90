"""`segue osc` spoken to by the real Pure Data and the real sclang, with the examples that are shipped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.daemon import engine
from tests.daemon.house import ROOT
from tests.hosts.conftest import HostHouse
from tests.hosts.test_osc import RATE, Bridge, wrong_samples

OSC = ROOT / "bridge_clients" / "osc"


@pytest.fixture
def running(coded_house: HostHouse) -> Iterator[Bridge]:
    # Pd and sclang split words at spaces: the folder's name has none
    with tempfile.TemporaryDirectory(prefix="segue-o-", dir="/tmp") as folder:
        wave = 0.25 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
        soundfile.write(Path(folder) / "in.wav", wave.astype("f4"), RATE, subtype="FLOAT")
        made = Bridge(coded_house, Path(folder))
        yield made
        made.close()


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Host:
    """A program whose lines are looked at; ended with the test."""

    def __init__(self, words: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            words, env=dict(os.environ, **environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def until(self, pattern: str, wait_s: float = 60.0) -> re.Match[str]:
        """The first line that fits."""
        by, at = time.monotonic() + wait_s, 0
        while time.monotonic() < by:
            while at < len(self.lines):
                if found := re.search(pattern, self.lines[at]):
                    return found
                at += 1
            time.sleep(0.02)
        raise AssertionError(f"no line like {pattern}: {self.lines[-20:]}")

    def all(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in self.lines if (found := re.search(pattern, line))]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(5)


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def start(words: list[str], **environment: str) -> Host:
        made.append(Host(words, **environment))
        return made[-1]

    yield start
    for one in made:
        one.close()


def pd_patch(folder: Path, port: int, *messages: str) -> Path:
    """A patch that sends one message after another to the shipped object, and prints what comes out."""
    lines = ["#N canvas 0 0 450 300 12;", f"#X obj 20 400 segue {port};", "#X obj 20 430 print OUT;",
             "#X obj 20 20 loadbang;", "#X connect 0 0 1 0;"]  # fmt: skip
    number = 3
    for index, message in enumerate(messages):
        lines += [f"#X obj 20 {50 + 40 * index} delay {300 + 800 * index};",
                  f"#X msg 120 {50 + 40 * index} {message};", f"#X connect 2 0 {number} 0;",
                  f"#X connect {number} 0 {number + 1} 0;", f"#X connect {number + 1} 0 0 0;"]  # fmt: skip
        number += 2
    path = folder / "driver.pd"
    connects = [line for line in lines if line.startswith("#X connect")]
    path.write_text("\n".join([line for line in lines if line not in connects] + connects) + "\n")
    return path


def pd_words(patch: Path) -> list[str]:
    return [program("pd"), "-nogui", "-noaudio", "-nomidi", "-stderr", "-path", str(OSC), "-open", str(patch)]


def test_pure_data_gets_exact_takes(running: Bridge, host: Callable[..., Host]) -> None:
    prompt = running.takes.parent / "in.wav"
    patch = pd_patch(
        running.takes.parent, running.port, "status",
        f"continue {prompt} 2 seconds seed 7 variations 2 level off id 5",
        f"continue {prompt} 1 bars bpm 120.5 level off id bars",
        f"generate 60 id long text slow=20 rate {RATE}",
        "cancel long", "sing",
    )  # fmt: skip
    pd = host(pd_words(patch))
    assert pd.until(r"OUT: status (\w+)")[1] == "ready"
    assert pd.until(r"OUT: accepted 5 \S+ (\S+) (\d+) (\d+)").groups() == ("7", str(2 * RATE), str(RATE))
    assert pd.until(r"OUT: done 5 (\w+) (\d+) (\d+)").groups() == ("done", "2", "7")
    takes = pd.all(r"OUT: take 5 (\d+) (\w+) (\S+) (\d+) (\d+) (-?\d+) (\d+) (\d+) (\d+)$")
    assert [found[1] for found in takes] == ["1", "2"]
    for found in takes:
        numbers = [int(text) for text in found.groups()[3:]]
        assert wrong_samples((5, int(found[1]), found[2], found[3], *numbers), 7) == 0
    pd.until(r"OUT: done bars done 1")
    (bars,) = pd.all(r"OUT: accepted bars \S+ \d+ (\d+)")
    assert int(bars[1]) == round(4 * 60 / 120.5 * RATE)
    pd.until(r"OUT: done long cancelled")
    assert pd.until(r"OUT: error \S* *(E_\w+)")[1] == "E_UNKNOWN_OP"
    assert pd.all(r"OUT: progress 5 ")
    assert not pd.all(r"couldn't create|no method|bad arguments")


def test_the_shipped_patches_load_without_a_complaint(host: Callable[..., Host], tmp_path: Path) -> None:
    ending = tmp_path / "end.pd"
    ending.write_text(
        "#N canvas 0 0 450 300 12;\n#X obj 20 20 loadbang;\n#X obj 20 50 delay 700;\n"
        "#X obj 20 70 print LOADED;\n"
        "#X msg 20 110 \\; pd quit;\n#X connect 0 0 1 0;\n#X connect 1 0 2 0;\n#X connect 1 0 3 0;\n"
    )
    pd = host([*pd_words(OSC / "segue-help.pd"), "-open", str(ending)])
    pd.until("LOADED", wait_s=20)
    said = [line for line in pd.lines if "LOADED" not in line and "priority" not in line and line.strip()]
    assert not said, said


def test_supercollider_gets_exact_takes(running: Bridge, host: Callable[..., Host]) -> None:
    prompt = running.takes.parent / "in.wav"
    driver = running.takes.parent / "driver.scd"
    driver.write_text(
        f"""
(
"{OSC}/segue.scd".load;
~segue.net = NetAddr("127.0.0.1", {running.port});
~segue.onProgress = {{ |id, state, done, total| "PROGRESS % % % %".format(id, state, done, total).postln }};
~segue.onError = {{ |id, code, message, field| "ERROR % % %".format(id, code, field).postln }};
~segue.onDone = {{ |id, state, count, seed|
    "DONE % % % %".format(id, state, count, seed).postln;
    if(id == 5) {{
        ~segue.takes[5].do {{ |t| "TAKE % % % % % % % % %".format(t[\\variation], t[\\stem], t[\\path],
            t[\\frames], t[\\rate], t[\\position], t[\\handle], t[\\tail], t[\\seed]).postln }};
        ~segue.ask(\\generate, 60, \\text, "slow=20", \\id, \\long, \\rate, {RATE});
        SystemClock.sched(1.5, {{ ~segue.cancel(\\long); nil }});
    }};
    if(id == \\long) {{ ~segue.ask(\\continue, "{prompt}", 1, \\seed, "x", \\id, 6) }};
}};
~segue.status;
~segue.ask(\\continue, "{prompt}", 2, \\seed, 7, \\variations, 2, \\level, \\off, \\id, 5);
)
"""
    )
    sclang = host(
        [program("sclang"), "-D", str(driver)],
        QTWEBENGINE_DISABLE_SANDBOX="1", QT_QPA_PLATFORM="offscreen",
        HOME=str(running.takes.parent), XDG_RUNTIME_DIR=str(running.takes.parent),
    )  # fmt: skip
    assert sclang.until(r"DONE 5 (\w+) (\d+) (\d+)").groups() == ("done", "2", "7")
    sclang.until(r"DONE long cancelled")
    assert sclang.until(r"ERROR 6 (\w+) (\w+)").groups() == ("E_ARGUMENT", "seed")
    takes = sclang.all(r"TAKE (\d+) (\w+) (\S+) (\d+) (\d+) (-?\d+) (\d+) (\d+) (\d+)$")
    assert [found[1] for found in takes] == ["1", "2"]
    for found in takes:
        numbers = [int(text) for text in found.groups()[3:]]
        assert wrong_samples((5, int(found[1]), found[2], found[3], *numbers), 7) == 0
    assert sclang.all(r"segue: \[ ready") or sclang.all("ready")
    assert sclang.all(r"PROGRESS 5 ")


def test_the_coded_model_can_tell(running: Bridge) -> None:
    """The comparison above would see a single sample that is out of place."""
    path = running.takes.parent / "shifted.wav"
    soundfile.write(path, engine.samples(7, 0, "mix", 1, 1000)[0], RATE, subtype="FLOAT")
    assert wrong_samples((1, 1, "mix", str(path), 1000, RATE, 0, 0, 0, 7), 7) > 900
