"""`segue audacity` with the real Audacity under Xvfb: what lands, where it lands, and what takes it away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_clients.audacity import installing
from bridge_clients.audacity.pipe import Pipe
from bridge_clients.client import Client
from protocol import messages as m
from protocol.errors import SegueError
from tests.hosts.audacity_host import Audacity, missing
from tests.hosts.conftest import ROOT, HostHouse
from tests.hosts.kit import read_wav, write_wav

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

RATE = 48_000
Segue = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def running() -> Iterator[Audacity]:
    host = Audacity()
    try:
        yield host.start()
    finally:
        host.close()


@pytest.fixture
def audacity(running: Audacity) -> Audacity:
    """Running, without tracks."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    running.empty()
    return running


@pytest.fixture
def segue(segue_command: Path) -> Segue:
    """`segue audacity WORDS`, ended; its lines of JSON are in `.stdout`."""

    def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(segue_command), "audacity", *map(str, words), "--json"],
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def event(done: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    """The one event of that name."""
    (found,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == name]
    return found


def noise(folder: Path, seconds: float = 4.0, rate: int = RATE, channels: int = 2, name: str = "in") -> Path:
    samples = np.random.default_rng(1).uniform(-0.4, 0.4, (round(seconds * rate), channels))
    write_wav(folder / f"{name}.wav", samples.astype(np.float32), rate)
    return folder / f"{name}.wav"


def take_of(house: HostHouse, job: str, variation: int = 0, part: str = "take") -> np.ndarray:
    """The daemon's own file."""
    with house.client() as wire:
        reply = wire.ask(m.Fetch(job=job, variation=variation, part=part))
    return read_wav(Path(reply.path))[1]


def steps(house: HostHouse, job: str) -> int:
    """The daemon's count of steps made, -1 where it tells none."""
    with house.client() as wire:
        tick = wire.ask(m.Status(job=job)).info.tick
    return -1 if tick is None else int(tick.step)


def until(done: Callable[[], bool], wait_s: float = 20.0) -> None:
    by = time.monotonic() + wait_s
    while not done():
        assert time.monotonic() < by
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("rate", "channels", "end_s"), [(48_000, 2, 3.0), (44_100, 1, 2.345678), (22_050, 2, 1.999999)]
)
def test_a_take_lands_at_the_exact_sample_with_the_exact_length_and_the_files_own_samples(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path, rate: int, channels: int,
    end_s: float,
) -> None:  # fmt: skip
    audacity.load(noise(tmp_path, rate=rate, channels=channels))
    audacity.select(0.5, end_s)
    done = segue("continue", "--seconds", "1.234", "--seed", "7")
    landed = event(done, "landed")
    seam, frames = round(0.5 * rate) + round((end_s - 0.5) * rate), round(1.234 * rate)
    assert (landed["at_frame"], landed["frames"], landed["rate"]) == (seam, frames, rate)
    assert landed["undo_steps"] == 1
    assert audacity.names() == ["in", "segue continue v1 seed 7", "segue"]
    take = take_of(coded_house, landed["job"])
    assert take.shape == (frames, channels)
    # one export over the edges: silence to the very sample before, the file's own samples, silence after
    heard = audacity.heard(1, seam - 50, seam + frames + 50)
    np.testing.assert_array_equal(heard[50:-50], take)
    assert not heard[:50].any() and not heard[-50:].any()
    # the selection is as the user left it
    place = audacity.place()
    assert (place.start_frame, place.end_frame) == (round(0.5 * rate), seam)
    assert [track.index for track in place.selected] == [0]


def test_one_undo_takes_all_variations_away_and_redo_brings_them_back(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(1.0, 2.0)
    job = event(segue("continue", "--seconds", "0.5", "--seed", "3", "--variations", "3"), "landed")["job"]
    names = ["in", *(f"segue continue v{n} seed 3" for n in (1, 2, 3)), "segue"]
    assert audacity.names() == names
    audacity.do("Undo:")
    assert audacity.names() == ["in"]
    audacity.do("Redo:")
    assert audacity.names() == names
    audacity.do("Undo:", "Undo:")  # the landing, and the file that the test has loaded
    assert audacity.names() == []
    audacity.do("Redo:", "Redo:")
    for variation in range(3):  # all but the first are muted, so that they do not sound together
        audacity.do(f"SelectTracks: Track={variation + 1} TrackCount=1 Mode=Set", "SetTrackAudio: Mute=0")
        heard = audacity.heard(variation + 1, 2 * RATE, 2 * RATE + RATE // 2)
        np.testing.assert_array_equal(heard, take_of(coded_house, job, variation))


@pytest.mark.parametrize(
    ("rate", "bars", "tempo", "meter", "downbeat"), [(44_100, "7/2", "93.7", "6/8", "0.1")]
)
def test_bars_are_counted_by_the_flags_and_begin_on_the_bar(
    audacity: Audacity, segue: Segue, tmp_path: Path, rate: int, bars: str, tempo: str, meter: str,
    downbeat: str,
) -> None:  # fmt: skip
    audacity.load(noise(tmp_path, rate=rate))
    audacity.select(0.0, 2.0)
    words = ("--bars", bars, "--tempo", tempo, "--meter", meter, "--downbeat", downbeat, "--start", "bar")
    landed = event(segue("continue", *words), "landed")
    bar_s = Fraction(60) / Fraction(tempo) * 3  # six eighths are three quarter notes
    first = next(n for n in range(100) if Fraction(downbeat) + n * bar_s >= 2)
    begin_s = Fraction(downbeat) + first * bar_s
    assert landed["at_frame"] == 2 * rate + round((begin_s - 2) * rate)
    assert landed["frames"] == round(Fraction(bars) * bar_s * rate)
    heard = audacity.heard(1, landed["at_frame"] - 20, landed["at_frame"] + 20)
    assert not heard[:20].any() and heard[20:].any()


def test_the_cursor_and_tracks_that_are_not_selected_will_do(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    # in an empty project: from words alone, at the cursor
    audacity.do("SelectTime: Start=1.5 End=1.5 RelativeTo=ProjectStart")
    landed = event(segue("generate", "--seconds", "0.5"), "landed")
    assert landed["at_frame"] == round(1.5 * landed["rate"])
    assert [name.split()[:3] for name in audacity.names()] == [["segue", "generate", "v1"], ["segue"]]
    audacity.do("Undo:")
    # nothing is selected but a place: what lies before it goes on
    audacity.load(noise(tmp_path, rate=landed["rate"]))
    audacity.do("SelectTracks: Track=0 TrackCount=0 Mode=Set")
    audacity.do("SelectTime: Start=2.25 End=2.25 RelativeTo=ProjectStart")
    landed = event(segue("continue", "--seconds", "0.5", "--listen", "1"), "landed")
    assert landed["at_frame"] == round(2.25 * landed["rate"])
    place = audacity.place()
    assert (place.start_frame, place.end_frame, place.selected) == (landed["at_frame"],) * 2 + ((),)


def test_a_retake_and_a_take_that_lands_again_come_to_the_same_place(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    first = event(segue("continue", "--seconds", "0.5", "--seed", "5"), "landed")
    again = event(segue("retake", "--seed", "6", "--text", "otherwise"), "landed")
    with coded_house.client() as wire:
        assert wire.ask(m.Status(job=again["job"])).info.text == "otherwise"
    assert (again["at_frame"], again["seed"]) == (first["at_frame"], 6) and again["job"] != first["job"]
    segue("land", first["job"])
    names = [name for name in audacity.names() if name.startswith("segue c")]
    assert names == [f"segue continue v1 seed {seed}" for seed in (5, 6, 5)]
    place, frames = audacity.place(), first["frames"]
    heard = [audacity.heard(n, place.end_frame, place.end_frame + frames) for n in (1, 3, 5)]
    np.testing.assert_array_equal(heard[0], heard[2])
    assert np.abs(heard[0] - heard[1]).max() > 0.01


@pytest.mark.parametrize("how", ["ctrl-c", "cancel"])
def test_cancel_stops_the_daemons_steps_within_200_ms(
    audacity: Audacity, segue_command: Path, coded_house: HostHouse, tmp_path: Path, how: str
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    words = [str(segue_command), "audacity", "continue", "--seconds", "120", "--text", "slow=20", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            job = next(line["job"] for line in map(json.loads, child.stdout) if line["event"] == "submitted")
            until(lambda: steps(coded_house, job) > 5)
            # the same work as `segue audacity cancel`, without the start of a Python
            begun = time.monotonic()
            if how == "ctrl-c":
                child.send_signal(signal.SIGINT)
            else:
                from bridge_clients.audacity.stopping import cancel

                with Client(folder=coded_house.runtime, autostart=False) as client:
                    assert cancel(client) == [job]
            last, since = steps(coded_house, job), time.monotonic()
            while time.monotonic() < begun + 1.5:
                now = steps(coded_house, job)
                if now not in (last, -1):
                    last, since = now, time.monotonic()
                time.sleep(0.005)
            print(f"\n{how}: the last step was seen after {1000 * (since - begun):.0f} ms")
            assert since - begun < 0.2
            assert child.wait(10) == 130
        finally:
            child.kill()
    assert audacity.names() == ["in"]


def test_the_cancel_command_says_what_it_stopped(
    audacity: Audacity, segue: Segue, segue_command: Path, coded_house: HostHouse, tmp_path: Path
) -> None:
    assert event(segue("cancel"), "cancelled")["jobs"] == []
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    words = [str(segue_command), "audacity", "continue", "--seconds", "120", "--text", "slow=20", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            job = next(line["job"] for line in map(json.loads, child.stdout) if line["event"] == "submitted")
            assert event(segue("cancel"), "cancelled")["jobs"] == [job]
            assert child.wait(10) == 130
        finally:
            child.kill()


def test_a_killed_daemon_leaves_audacity_fluid_and_the_take_complete(
    audacity: Audacity, own_house: Callable[..., HostHouse], tmp_path: Path
) -> None:
    house = own_house()
    command = house.write_command(house.folder)
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    words = [str(command), "audacity", "continue", "--seconds", "4", "--text", "slow=15 resumable", "--json"]
    slowest_s = 0.0
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            job = next(line["job"] for line in map(json.loads, child.stdout) if line["event"] == "submitted")
            until(lambda: steps(house, job) > 20)
            house.kill_current()
            by = time.monotonic() + 2
            while time.monotonic() < by and child.poll() is None:
                begun = time.monotonic()
                with Pipe() as pipe:  # nobody keeps the pipe while audio is made
                    pipe.do("GetInfo: Type=Tracks Format=JSON")
                slowest_s = max(slowest_s, time.monotonic() - begun)
            lines = [json.loads(line) for line in child.stdout]
            assert child.wait(60) == 0, lines
        finally:
            child.kill()
    notes = [line["message"] for line in lines if line["event"] == "note"]
    print(f"\npipe and answer meanwhile: {1000 * slowest_s:.0f} ms at most; told: {notes}")
    assert slowest_s < 2 and any("daemon" in note for note in notes)
    house.reconnect()
    frames = 4 * RATE
    take = take_of(house, job)
    assert take.shape == (frames, 2)
    np.testing.assert_array_equal(audacity.heard(1, RATE * 3 // 2, RATE * 3 // 2 + frames), take)


HOSTILE = (
    'x" \' \\ $(touch {bait}) `touch {bait}` ; touch {bait} \n Undo:\nRemoveTracks:\n 🎹 <label title="&'
)


@pytest.mark.parametrize("size", ["short", "10 kB"])
def test_hostile_texts_and_names_pass_unharmed_and_execute_nothing(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path, size: str
) -> None:
    bait = tmp_path / "bait"
    text = HOSTILE.format(bait=bait)
    if size == "10 kB":
        text += " Undo: RemoveTracks: " * ((10_000 - len(text)) // 21)
    hostile = tmp_path / "it's; $(touch bait) `x` 🎹"
    hostile.mkdir()
    audacity.load(noise(hostile, name="a b's"))
    audacity.select(0.5, 1.5)
    landed = event(segue("continue", "--seconds", "0.5", "--text", text, "--negative-text", text), "landed")
    assert audacity.names()[0] == "a b's" and len(audacity.names()) == 3
    with coded_house.client() as wire:
        assert wire.ask(m.Status(job=landed["job"])).info.text == text
    (labels,) = audacity.do("GetInfo: Type=Labels Format=JSON")
    label = labels.split('"', 1)[1].rpartition('"')[0].replace('\\"', '"')
    assert (
        "1.5, 2," in labels and label.startswith("segue continue seed ") and f"job {landed['job']}" in label
    )
    assert " ".join(text.split())[:100] in label and "\n" not in label
    np.testing.assert_array_equal(
        audacity.heard(1, RATE * 3 // 2, RATE * 2), take_of(coded_house, landed["job"])
    )
    assert not bait.exists() and not (tmp_path / "bait").exists()


def test_audacity_that_is_closed_in_the_middle_costs_no_take(
    audacity: Audacity, segue: Segue, segue_command: Path, coded_house: HostHouse, tmp_path: Path
) -> None:
    path = noise(tmp_path)
    audacity.load(path)
    audacity.select(0.5, 1.5)
    words = [str(segue_command), "audacity", "continue", "--seconds", "2", "--text", "slow=10", "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        job = next(line["job"] for line in map(json.loads, child.stdout) if line["event"] == "submitted")
        audacity.kill()  # its pipe stays behind, and nobody reads there
        said, refused = child.communicate(timeout=60)
    assert child.returncode == 5 and "start Audacity again" in refused, refused
    assert f"segue audacity land {job}" in said
    done = segue("continue", status=5)
    assert "start Audacity again" in done.stderr
    audacity.start()
    audacity.load(path)
    segue("land")
    np.testing.assert_array_equal(audacity.heard(1, RATE * 3 // 2, RATE * 7 // 2), take_of(coded_house, job))


def test_two_commands_at_once_take_turns(
    audacity: Audacity, segue_command: Path, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    words = [str(segue_command), "audacity", "continue", "--seconds", "0.5", "--quiet"]
    children = [subprocess.Popen([*words, "--seed", str(seed)]) for seed in (1, 2, 3)]
    try:
        assert [child.wait(90) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            child.kill()
    assert sorted(name for name in audacity.names() if name.startswith("segue c")) == [
        f"segue continue v1 seed {seed}" for seed in (1, 2, 3)
    ]


def test_an_open_dialog_is_said_and_nothing_is_sent_behind_it(audacity: Audacity, tmp_path: Path) -> None:
    with pytest.raises(SegueError) as told, Pipe(answer_s=2) as pipe:
        pipe.do('NyquistPrompt: Command="(print 1)" Version=4')  # without a track: it opens a dialog
    assert told.value.code == "E_TIMEOUT" and "dialog" in told.value.message
    audacity.kill()  # nothing can close the dialog but a hand
    audacity.start()


def test_silence_and_nothing_are_refused_in_words(audacity: Audacity, segue: Segue, tmp_path: Path) -> None:
    assert "no audio in this project" in segue("continue", status=3).stderr
    write_wav(tmp_path / "still.wav", np.zeros((RATE, 2), np.float32), RATE)
    audacity.load(tmp_path / "still.wav")
    audacity.select(0.0, 0.5)
    assert "silent" in segue("continue", status=3).stderr
    audacity.do("SetTrackAudio: Mute=1")
    assert "silent" in segue("continue", status=3).stderr
    audacity.select(0.5, 0.5)
    assert "No time is selected" in segue("vary", status=3).stderr
    assert audacity.names() == ["still"]


def test_vary_fill_and_accompany_land_where_the_selection_is(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(1.0, 2.0)
    for number, mode in enumerate(("vary", "fill", "accompany")):
        model = ("--model", "stems") if mode == "accompany" else ()
        landed = event(segue(mode, "--seed", "9", *model), "landed")
        assert (landed["at_frame"], landed["frames"]) == (RATE, RATE), mode
        names = [name for name in audacity.names() if name.startswith(f"segue {mode}")]
        stems = [" drums", " bass", " other"] if mode == "accompany" else [""]
        assert names == [f"segue {mode} v1{stem} seed 9" for stem in stems]
        if mode != "accompany":
            take = take_of(coded_house, landed["job"])
            heard = audacity.heard(1 + 2 * number, RATE - 10, 2 * RATE + 10)
            np.testing.assert_array_equal(heard[10:-10], take)
            assert not heard[:10].any() and not heard[-10:].any()


def test_what_lies_before_the_seam_is_there_and_not_heard(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(1.0, 2.0)
    job = event(segue("continue", "--seconds", "0.5"), "landed")["job"]
    handle = take_of(coded_house, job, part="handle")
    assert len(handle) == round(0.08 * RATE)
    with pytest.raises(SegueError, match="silent"):
        audacity.heard(1, 2 * RATE - len(handle), 2 * RATE)
    audacity.do(f'SaveProject2: Filename="{audacity.folder}/kept.aup3" AddToHistory=0 Compress=0')
    kept = b"".join(path.read_bytes() for path in audacity.folder.glob("kept.aup3*"))
    pieces = [handle[at : at + 64, 0].tobytes() for at in range(0, len(handle) - 64, 64)]
    there = sum(piece in kept for piece in pieces)
    assert there >= len(pieces) - 2  # in the project, but for what a page's edge cuts in two


def test_installing_switches_the_pipe_on_and_back(
    running: Audacity, segue_command: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "c")}
    config = tmp_path / "c/audacity/audacity.cfg"
    config.parent.mkdir(parents=True)
    config.write_text("NewPrefsInitialized=1\n[Module]\nmod-script-pipe=4\n[GUI]\nShowSplashScreen=0\n")
    before = config.read_text()

    def install(*words: str) -> subprocess.CompletedProcess[str]:
        line = [str(segue_command), "install", "audacity", *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=60)

    refused = install()
    assert refused.returncode == 2 and "quit it" in refused.stderr  # one runs, and would write over it
    assert config.read_text() == before
    assert [found.level for found in installing.check("linux", tmp_path, environment)] == ["bad"]
    running.kill()
    done = install()
    assert done.returncode == 0, done.stderr
    assert [found.level for found in installing.check("linux", tmp_path, environment)] == ["ok"]
    assert "mod-script-pipe=1" in config.read_text() and "ShowSplashScreen=0" in config.read_text()
    assert install("--uninstall").returncode == 0
    assert config.read_text() == before


def test_the_real_model_goes_on_in_the_real_audacity(
    audacity: Audacity, pocket_house: HostHouse, pocket_command: Path
) -> None:
    loop = ROOT / "bridge_clients/cli/demo/loop.flac"
    audacity.load(loop)
    audacity.select(4.0, 8.0)
    words = [
        "--bars",
        "1/2",
        "--tempo",
        "120",
        "--seed",
        "7",
        "--variations",
        "2",
        "--text",
        "disco, 120 bpm",
    ]
    done = subprocess.run(
        [str(pocket_command), "audacity", "continue", *words, "--json"],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    landed = event(done, "landed")
    rate, seam = 44_100, 8 * 44_100
    assert (landed["at_frame"], landed["frames"], landed["rate"]) == (seam, rate, rate)
    take = take_of(pocket_house, landed["job"])
    assert take.shape == (rate, 2) and np.abs(take).max() > 0.01
    np.testing.assert_array_equal(audacity.heard(1, seam, seam + rate), take)
    audacity.do("Undo:")
    assert audacity.names() == ["loop"]


def test_a_command_that_is_killed_while_it_talks_leaves_audacity_to_the_next(
    audacity: Audacity, segue: Segue, segue_command: Path, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(0.5, 1.5)
    words = [str(segue_command), "audacity", "continue", "--seconds", "0.5", "--quiet"]
    for after_s in (0.4, 0.7, 1.0, 1.5):
        with subprocess.Popen(words, start_new_session=True) as child:
            time.sleep(after_s)
            child.kill()
    audacity.select(0.5, 1.5)
    landed = event(segue("continue", "--seconds", "0.5", "--seed", "77"), "landed")
    assert landed["at_frame"] == RATE * 3 // 2
    assert "segue continue v1 seed 77" in audacity.names()
