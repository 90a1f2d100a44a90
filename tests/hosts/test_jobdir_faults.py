"""Job directories when something dies, fills up, goes away or is not what it should be. JOBDIR.md promises
that nothing is lost, that every end is told, and that a host never waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from tests.daemon import engine
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import HostJob, Jobs, read_wav, tone, write_wav

RATE = engine.RATE
SLOW: dict[str, Any] = {"rate": RATE, "prompt": tone(rate=RATE, channels=1), "length": {"seconds": 2.0}}


def assert_exact(job: HostJob, done: dict[str, Any], frames: int = 2 * RATE) -> None:
    """The take is what an undisturbed run would have made, to the last bit."""
    assert done["state"] == "done", done
    (take,) = done["takes"]
    path = Path(take["file"])
    _, samples = read_wav(path if path.is_absolute() else job.folder / path)
    assert take["frames"] == frames
    expected = engine.samples(7, 0, "mix", -take["handle_frames"], frames + take["handle_frames"])
    np.testing.assert_array_equal(samples.T, expected)


def test_a_killed_segue_job_goes_on_where_it_was(jobs: Jobs, coded_house: HostHouse) -> None:
    job = jobs.lay(text="slow=20", chunks=True, chunk_s=0.1, **SLOW).start()
    first = job.until("accepted")["job"]
    job.until("audio")
    job.kill()
    before = job.lines()
    done = job.start().wait()
    assert_exact(job, done)
    assert done["job"] == first and {line["job"] for line in job.lines("accepted")} == {first}
    assert job.lines()[: len(before)] == before  # only ever appended to
    told = [json.dumps(line, sort_keys=True) for line in job.lines("audio")]
    assert len(told) == len(set(told))
    pieces = [read_wav(job.folder / line["file"])[1] for line in job.lines("audio")]
    np.testing.assert_array_equal(np.concatenate(pieces), read_wav(job.folder / "v1.mix.wav")[1])
    with coded_house.client() as wire:
        assert len([j for j in wire.ask(m.List(limit=500)).jobs if j.job == first]) == 1


def test_a_line_cut_short_by_death_is_ended(jobs: Jobs) -> None:
    job = jobs.lay()
    (job.folder / "progress").write_text('{"event": "tick", "sta')
    job.start().wait()
    lines = (job.folder / "progress").read_text().splitlines()
    assert lines[0] == '{"event": "tick", "sta' and all(json.loads(line) for line in lines[1:])


def test_a_daemon_killed_in_the_middle_is_started_again(
    own_house: Callable[..., HostHouse],
) -> None:
    house = own_house()
    jobs = Jobs(house.folder / "jobs", house.write_command(house.folder))
    job = jobs.lay(text="slow=30 resumable", chunks=True, chunk_s=0.1, **SLOW).start()
    job.until("audio")
    old = house.kill_current()
    done = job.wait(60)
    assert_exact(job, done)
    assert house.current_pid() not in (0, old)
    assert any("tart" in line["message"] for line in job.lines("note")), job.lines("note")
    beats = [line for line in job.lines("tick") if line.get("total")]
    assert beats and max(line["done"] for line in beats) <= beats[-1]["total"]
    jobs.close()


def test_chunks_that_became_void_come_again(own_house: Callable[..., HostHouse]) -> None:
    """A worker dies and its model cannot take up where it was: a line says which chunks are void."""
    house = own_house("worker.backoff_s=0.05")
    jobs = Jobs(house.folder / "jobs", house.write_command(house.folder))
    job = jobs.lay(text="slow=5 crash=60 crashes=1", chunks=True, chunk_s=0.1, **SLOW).start()
    done = job.wait()
    assert_exact(job, done)
    assert job.lines("discard")
    chunks: list[dict[str, Any]] = []
    for line in job.lines():
        if line["event"] == "discard":
            chunks = [chunk for chunk in chunks if chunk["position"] < line["position"]]
        elif line["event"] == "audio":
            chunks.append(line)
    assert len({line["file"] for line in job.lines("audio")}) == len(job.lines("audio"))
    whole = np.concatenate([read_wav(job.folder / chunk["file"])[1] for chunk in chunks])
    np.testing.assert_array_equal(whole, read_wav(job.folder / "v1.mix.wav")[1])
    jobs.close()


def test_cancel_stops_the_daemons_job_at_once(jobs: Jobs, coded_house: HostHouse) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 60}, rate=RATE).start()
    number = job.until("accepted")["job"]
    job.until("tick", state="generating")
    with coded_house.client() as wire:
        begun = time.monotonic()
        (job.folder / "cancel").touch()
        while wire.ask(m.Status(job=number)).info.state != "cancelled":
            assert time.monotonic() - begun < 5
            time.sleep(0.005)
        took_s = time.monotonic() - begun
    done = job.wait()
    assert done["state"] == "cancelled" and done["job"] == number and done["takes"] == []
    print(f"cancel: the job stood still after {1000 * took_s:.0f} ms")
    assert took_s < 1.0  # 0.06 s on an idle machine; the promise of 0.2 s is measured, not waited for here


def test_cancel_before_there_is_a_daemon_ends_at_once(tmp_path: Path) -> None:
    """The daemon's start takes seconds, or never ends: nobody waits for it who does not want the job."""
    house = HostHouse()
    try:
        house.runtime.mkdir(mode=0o700)
        command = house.write_command(house.folder)
        jobs = Jobs(house.folder / "jobs", command)
        job = jobs.lay()
        (job.folder / "cancel").touch()
        job.start()
        done = job.wait(10)
        assert done["state"] == "cancelled" and not (job.folder / "key").exists()
        jobs.close()
    finally:
        by = time.monotonic() + 10
        while time.monotonic() < by and not house.current_pid():
            time.sleep(0.05)  # the daemon that was being started
        house.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_means_cancel(jobs: Jobs, number: signal.Signals) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 60}).start()
    job.until("tick", state="generating")
    os.kill(json.loads((job.folder / "heartbeat").read_text())["pid"], number)
    assert job.wait()["state"] == "cancelled"


def test_a_removed_directory_cancels_and_is_not_made_again(jobs: Jobs, coded_house: HostHouse) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 60}, chunks=True).start()
    number = job.until("accepted")["job"]
    job.until("tick", state="generating")
    aside = job.folder.with_name("aside")
    job.folder.rename(aside)
    assert job.process is not None and job.process.wait(10) == 130
    with coded_house.client() as wire:
        assert wire.ask(m.Status(job=number)).info.state == "cancelled"
    assert not job.folder.exists() and not (aside / "done").exists()
    aside.rename(job.folder)


def test_the_second_on_one_directory_leaves_it_alone(jobs: Jobs) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 20}).start()
    job.until("tick", state="generating")
    second = subprocess.run(
        [str(job._command), "job", str(job.folder)], capture_output=True, text=True, check=False, timeout=20
    )
    assert second.returncode == 6 and "already" in second.stderr and job.done() is None
    (job.folder / "cancel").touch()
    job.wait()


def test_a_host_that_leaves_nothing_open_and_hangs_up(jobs: Jobs, segue_command: Path) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 1.0})
    words = 'exec "$0" job "$1" <&- >&- 2>&-'
    child = subprocess.Popen(
        ["/bin/sh", "-c", words, str(segue_command), str(job.folder)], start_new_session=True
    )
    job.until("tick", state="generating")
    os.kill(child.pid, signal.SIGHUP)
    assert child.wait(30) == 0
    done = job.done()
    assert done is not None and done["state"] == "done"


def test_done_is_done(jobs: Jobs) -> None:
    job, done = jobs.run()
    before = {path.name: path.stat().st_mtime_ns for path in job.folder.iterdir()}
    assert job.start().wait() == done
    assert {path.name: path.stat().st_mtime_ns for path in job.folder.iterdir()} == before


# ---- disks ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "segue-test", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def fill(folder: Path, leave_bytes: int) -> Path:
    filler = folder / "filler"
    free = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave_bytes)
    return filler


def test_full_takes_folder_is_told_and_nothing_is_lost(jobs: Jobs, small_disk: Path) -> None:
    job = jobs.lay(text="slow=20", takes_folder=str(small_disk), **SLOW).start()
    number = job.until("accepted")["job"]
    filler = fill(small_disk, 100_000)
    done = job.wait()
    assert (done["state"], done["code"]) == ("failed", "E_DISK_FULL") and "room" in done["message"]
    assert done["job"] == number
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    (job.folder / "done").unlink()
    done = job.start().wait()
    assert_exact(job, done)
    assert done["job"] == number and Path(done["takes"][0]["file"]).parent == small_disk


def test_a_disk_too_small_is_said_before_anything_is_made(jobs: Jobs, small_disk: Path) -> None:
    job, done = jobs.run(length={"seconds": 60}, takes_folder=str(small_disk))
    assert (done["state"], done["code"], done["field"]) == ("failed", "E_DISK_FULL", "takes_folder")
    assert not job.lines("accepted")


def test_a_line_that_found_no_room_does_not_spoil_the_next(tmp_path: Path, small_disk: Path) -> None:
    from bridge_clients.jobdir.folder import JobDir

    folder = small_disk / "job"
    folder.mkdir(mode=0o700)
    place = JobDir(folder)
    assert place.begin()
    filler = fill(small_disk, 0)
    for number in range(300):  # the last page has some room left, then there is none
        place.tell("note", message=f"{number} {'x' * 90}")
    filler.unlink()
    place.tell("note", message="last")
    place.close()
    *lines, last = (folder / "progress").read_bytes().splitlines()
    assert json.loads(last)["message"] == "last" and lines
    whole = [line for line in lines if line.endswith(b"}")]
    assert len(whole) >= len(lines) - 1 and all(json.loads(line) for line in whole)


def test_a_full_disk_under_the_job_directory_still_says_done(
    coded_house: HostHouse, segue_command: Path, small_disk: Path, tmp_path: Path
) -> None:
    jobs = Jobs(small_disk / "jobs", segue_command)
    given = {**SLOW, "prompt": tone(0.5, RATE, 1)}
    job = jobs.lay(text="slow=20", chunks=True, takes_folder=str(tmp_path), **given).start()
    job.until("accepted")
    fill(small_disk, 0)
    done = job.wait()
    assert (done["state"], done["code"]) == ("failed", "E_DISK_FULL")
    jobs.close()


# ---- what hosts and strangers may lay there ----

HUGE = "x" * (1 << 20)
GENERATE = '{"version": 1, "mode": "generate", "length": {"seconds": 1}'
BROKEN: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "E_ARGUMENT", "request.json"),
    "half": ('{"version": 1, "mode": "gen', "E_ARGUMENT", "request.json"),
    "no object": ("[1]", "E_ARGUMENT", "request.json"),
    "not text": (b"\xff\xfe{}", "E_ARGUMENT", "request.json"),
    "NaN": ('{"version": 1, "mode": "generate", "length": {"seconds": NaN}}', "E_ARGUMENT", "request.json"),
    "deep": ("[" * 100_000, "E_ARGUMENT", "request.json"),
    "huge": (f'{{"text": "{HUGE}"}}', "E_SIZE", "request.json"),
    "huge number": ('{"version": 1, "seed": 1' + "0" * 5000 + "}", "E_ARGUMENT", "request.json"),
    "version": ('{"version": 2}', "E_ARGUMENT", "version"),
    "no mode": ('{"version": 1}', "E_ARGUMENT", "mode"),
    "mode": ('{"version": 1, "mode": "rm -rf", "length": {"bars": 1}}', "E_ARGUMENT", "mode"),
    "no length": ('{"version": 1, "mode": "generate"}', "E_ARGUMENT", "length"),
    "type": ('{"version": 1, "mode": "generate", "length": 4}', "E_ARGUMENT", "length"),
    "infinite": ('{"version": 1, "mode": "generate", "length": {"seconds": 1e999}}', "E_ARGUMENT", "length"),
    "key": ('{"version": 1, "mode": "generate", "length": {"seconds": 1}, "key": "zz"}', "E_ARGUMENT", "key"),
    "nul": (GENERATE + ', "text": "a\\u0000"}', "E_ARGUMENT", "text"),
    "surrogate": (GENERATE + ', "text": "\\ud800"}', "E_ARGUMENT", "text"),
    "no prompt": ('{"version": 1, "mode": "continue", "length": {"seconds": 1}}', "E_AUDIO", "audio"),
    "retake": ('{"version": 1, "retake": "../../x"}', "E_ARGUMENT", "job"),
    "retake of nothing": ('{"version": 1, "retake": "999999"}', "E_JOB", "job"),
}  # fmt: skip


def lay_raw(jobs: Jobs, raw: str | bytes) -> HostJob:
    job = jobs.lay(mode="generate")
    (job.folder / "request.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return job


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_request_is_refused_by_name(jobs: Jobs, kind: str) -> None:
    raw, code, field = BROKEN[kind]
    job = lay_raw(jobs, raw)
    done = job.start().wait(20)
    assert (done["state"], done["code"]) == ("failed", code), done
    assert str(done.get("field", "")).startswith(field), done
    assert done["message"].endswith(".") and "\n" not in done["message"] and len(done["message"]) < 400
    assert job.process is not None and job.process.returncode in (2, 3)


def _fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe.wav")
    return "pipe.wav"


def _link(folder: Path) -> str:
    (folder / "link.wav").symlink_to("/etc/passwd")
    return "link.wav"


def _folder(folder: Path) -> str:
    (folder / "folder.wav").mkdir()
    return "folder.wav"


def _sparse(folder: Path) -> str:
    from bridge_clients import wav

    sound = tone(2.0).tobytes()
    with (folder / "long.wav").open("wb") as file:
        file.write(wav.header(48_000, 2, 1 << 33))
        file.seek((1 << 36) - len(sound), os.SEEK_CUR)
        file.write(sound)
    return "long.wav"


def _short(folder: Path) -> str:
    write_wav(folder / "short.wav", tone())
    os.truncate(folder / "short.wav", 1000)
    return "short.wav"


def _nan(folder: Path) -> str:
    samples = tone()
    samples[7, 0] = np.nan
    write_wav(folder / "nan.wav", samples)
    return "nan.wav"


def _text(folder: Path) -> str:
    (folder / "text.wav").write_text("not audio at all")
    return "text.wav"


def _nothing(folder: Path) -> str:
    (folder / "nothing.wav").touch()
    return "nothing.wav"


STRANGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "path outside": (lambda _: "../../../etc/passwd", "E_ARGUMENT"),
    "absolute path": (lambda _: "/etc/passwd", "E_ARGUMENT"),
    "hidden": (lambda _: ".request.json", "E_ARGUMENT"),
    "no text": (lambda _: 7, "E_ARGUMENT"),
    "missing": (lambda _: "prompt2.wav", "E_ARGUMENT"),
    "pipe": (_fifo, "E_ARGUMENT"),
    "link": (_link, "E_ARGUMENT"),
    "folder": (_folder, "E_ARGUMENT"),
    "cut short": (_short, "E_AUDIO"),
    "not a number": (_nan, "E_AUDIO"),
    "no audio": (_text, "E_AUDIO"),
    "nothing": (_nothing, "E_AUDIO"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_audio_is_refused_by_name(jobs: Jobs, kind: str) -> None:
    make, code = STRANGE[kind]
    job = jobs.lay()
    name = make(job.folder)
    request = json.loads((job.folder / "request.json").read_text())
    request["audio"] = [{"file": name, "role": "prompt"}]
    (job.folder / "request.json").write_text(json.dumps(request))
    done = job.start().wait(20)
    assert (done["state"], done["code"]) == ("failed", code), done
    assert done["field"].startswith("audio"), done


def test_of_a_file_of_64_gib_only_the_end_is_read(jobs: Jobs) -> None:
    job = jobs.lay()
    name = _sparse(job.folder)
    request = json.loads((job.folder / "request.json").read_text())
    request["audio"] = [{"file": name, "role": "prompt"}]
    (job.folder / "request.json").write_text(json.dumps(request))
    done = job.start().wait(30)
    assert done["state"] == "done", done


@pytest.mark.parametrize("name", ["request.json", "progress", "heartbeat", "key"])
def test_a_pipe_where_a_file_belongs_blocks_nobody(jobs: Jobs, name: str) -> None:
    job = jobs.lay(mode="generate")
    with contextlib.suppress(FileNotFoundError):
        (job.folder / name).unlink()
    os.mkfifo(job.folder / name)
    done = job.start().wait(20)
    assert (done["state"], done["code"]) == ("failed", "E_ARGUMENT")


def test_links_planted_for_our_files_are_not_followed(jobs: Jobs, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    job = jobs.lay(mode="generate")
    for name in ("progress", "heartbeat", ".done.part"):
        (job.folder / name).symlink_to(precious)
    job.start()
    assert job.process is not None
    job.process.wait(20)
    assert precious.read_text() == "precious"


def test_a_directory_with_another_name_or_a_link_is_refused(jobs: Jobs, segue_command: Path) -> None:
    job = jobs.lay()
    for folder in (jobs.folder / "a b", jobs.folder / "$(reboot)", jobs.folder / "a;b"):
        folder.mkdir(mode=0o700)
        done = HostJob(folder, segue_command).start().wait(20)
        assert (done["code"], done["field"]) == ("E_ARGUMENT", "DIR")
    link = jobs.folder / "link"
    link.symlink_to(job.folder)
    run = subprocess.run([str(segue_command), "job", str(link)], capture_output=True, check=False, timeout=20)
    assert run.returncode == 2 and job.done() is None
    link.unlink()


def test_words_pass_unharmed_and_run_nothing(jobs: Jobs, coded_house: HostHouse, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    words = f"\"q\" 'q' `touch {mark}` $(touch {mark}); touch {mark}\n| & < > \\ % ! \N{VIOLIN} é 漢 \t"
    words += "x" * (10_000 - len(words.encode()))
    job, done = jobs.run(mode="generate", text=words, negative_text=words[:200], project="a\"b'$(c)")
    assert done["state"] == "done" and done["settings"]["text"] == words
    with coded_house.client() as wire:
        info = wire.ask(m.Status(job=done["job"])).info
    assert info.text == words and info.project == "a\"b'$(c)" and not mark.exists()
    assert json.loads((job.folder / "manifest.json").read_text())["settings"]["negative_text"] == words[:200]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("takes_folder", "relative/path"), ("takes_folder", "/no/such/folder"), ("takes_folder", 3),
        ("takes_name", "../up"), ("takes_name", "a/b"), ("takes_name", ".hidden"), ("takes_name", "a\nb"),
        ("takes_name", "x" * 200), ("chunks", "yes"), ("chunk_s", 0), ("chunk_s", "1"),
        ("audio", "prompt.wav"), ("audio", ["prompt.wav"]),
    ],
)  # fmt: skip
def test_the_directorys_own_fields_are_checked(jobs: Jobs, field: str, value: Any) -> None:
    done = jobs.run(mode="generate", **{field: value})[1]
    assert (done["state"], done["code"]) == ("failed", "E_ARGUMENT")
    assert done["field"].startswith(field) and done["allowed"]


def test_takes_go_where_they_were_sent_and_replace_nothing(jobs: Jobs, tmp_path: Path) -> None:
    media = tmp_path / "Mein Lied (é) 'x'"
    media.mkdir()
    (media / "baß line.v1.mix.wav").write_text("an older take")
    job, done = jobs.run(mode="generate", takes_folder=str(media), takes_name="baß line", variations=2)
    names = [Path(take["file"]).name for take in done["takes"]]
    assert names == ["baß line.v1.mix-2.wav", "baß line.v2.mix.wav"]
    assert sorted(path.name for path in media.iterdir()) == sorted([*names, "baß line.v1.mix.wav"])
    assert (media / "baß line.v1.mix.wav").read_text() == "an older take"
    assert not list(job.folder.glob("*.wav"))
    (job.folder / "done").unlink()  # as after a death between the last take and the last word
    again = job.start().wait()
    assert [Path(take["file"]).name for take in again["takes"]] == names
    assert len(list(media.iterdir())) == 3


def test_jobs_with_one_name_do_not_meet(jobs: Jobs, tmp_path: Path) -> None:
    given = {**SLOW, "takes_folder": str(tmp_path), "takes_name": "same", "variations": 2}
    laid = [jobs.lay(**{**given, "seed": seed}).start() for seed in (1, 2, 3)]
    names = []
    for seed, job in zip((1, 2, 3), laid, strict=True):
        for take in job.wait()["takes"]:
            names.append(take["file"])
            _, samples = read_wav(Path(take["file"]))
            start, variation = -take["handle_frames"], take["variation"] - 1
            made = engine.samples(seed, variation, "mix", start, len(samples))
            np.testing.assert_array_equal(samples.T, made)
    assert len(set(names)) == 6 and sorted(map(str, tmp_path.iterdir())) == sorted(names)


def test_a_retake_needs_no_audio(jobs: Jobs) -> None:
    _, first = jobs.run(rate=RATE, prompt=tone(rate=RATE, channels=1))
    given = {"mode": None, "length": None, "level": None, "retake": first["job"]}
    job, done = jobs.run(**{**given, "seed": 8, "variations": 2})
    assert done["state"] == "done" and done["seed"] == 8 and done["job"] != first["job"]
    assert len(done["takes"]) == 2 and done["settings"]["retake"] == first["job"]
    _, samples = read_wav(job.folder / "v2.mix.wav")
    handle = done["takes"][1]["handle_frames"]
    np.testing.assert_array_equal(samples.T, engine.samples(8, 1, "mix", -handle, len(samples)))


def test_settings_laid_again_make_the_same_take(jobs: Jobs) -> None:
    job, first = jobs.run(seed=None, temperature=None, unknown_thing=3, length={"seconds": 1.0})
    assert any("unknown_thing" in line["message"] for line in job.lines("note"))
    again = jobs.lay(**first["settings"])
    write_wav(again.folder / "prompt.wav", tone())
    done = again.start().wait()
    assert done["seed"] == first["seed"]
    one, two = (read_wav(j.folder / "v1.mix.wav")[1] for j in (job, again))
    np.testing.assert_array_equal(one, two)


def test_numbers_of_a_language_with_one_kind_of_number(jobs: Jobs) -> None:
    done = jobs.run(mode="generate", rate=48_000, variations=1.0, seed=7.0, channels=2.0, key="0f" * 16)[1]
    assert done["state"] == "done" and done["key"] == "0f" * 16


def test_a_job_directory_of_root_is_not_the_users(jobs: Jobs, segue_command: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of another user")
    job = jobs.lay()
    os.chown(job.folder, 12345, 12345)
    run = subprocess.run(
        [str(segue_command), "job", str(job.folder)], capture_output=True, text=True, check=False, timeout=20
    )
    assert run.returncode == 2 and "another user" in run.stderr
    assert not (job.folder / "done").exists() and not (job.folder / "progress").exists()
    os.chown(job.folder, 0, 0)


HEAVY = ("numpy", "torch", "soundfile", "rich", "asyncio", "matplotlib", "omegaconf", "daemon", "genmodel")
_ASK = """
import sys
from bridge_clients.cli.main import main
status = main(["job", {folder!r}])
sys.stderr.write(repr((status, [name for name in {heavy!r} if name in sys.modules])))
"""


def test_a_whole_job_imports_nothing_heavy(jobs: Jobs, host_environment: dict[str, str]) -> None:
    job = jobs.lay(chunks=True)
    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(folder=str(job.folder), heavy=HEAVY)],
        capture_output=True, text=True, check=False, env=host_environment, timeout=60,
    )  # fmt: skip
    assert job.done() is not None and job.done()["state"] == "done"  # type: ignore[index]
    assert done.stderr == "(0, [])", done.stderr


def test_the_command_is_at_work_quickly(jobs: Jobs, host_environment: dict[str, str]) -> None:
    """Time on a processor until the directory is refused, beside Python's own start: 0.10 s, of which zmq and
    msgpack are 0.05 (numpy alone takes 0.10). More than twice that here: tests share the machine.
    """
    folder = jobs.folder / "cold"
    folder.mkdir(mode=0o700)

    def best_s(*words: str) -> float:
        times = []
        for _ in range(5):
            (folder / "done").unlink(missing_ok=True)
            before = os.times()
            subprocess.run(
                [sys.executable, "-P", *words], capture_output=True, check=False, env=host_environment
            )
            after = os.times()
            used = after.children_user + after.children_system
            times.append(used - before.children_user - before.children_system)
        return min(times)

    took_s = best_s("-m", "bridge_clients.cli.main", "job", str(folder)) - best_s("-c", "pass")
    print(f"cold start of segue job: {1000 * took_s:.0f} ms")
    assert took_s < 0.25
