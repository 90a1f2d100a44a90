"""Configuration, folders, locks, journal, spool, order of the queue, the link, loudness: each by itself."""

from __future__ import annotations

import secrets
import socket
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from daemon import config, history, journal, lifecycle, security
from daemon.journal import Journal, NewEvent
from daemon.metrics import Metrics
from daemon.takes import Chunk, SpoolWriter, TakeStore, write_wav
from daemon.workers.interface import ModelFacts
from daemon.workers.link import Decoder, LinkError, encode
from daemon.workers.loudness import integrated_lufs
from daemon.workers.render import HostShape, Voice, match_level, model_frames, to_model, trimmed_frames
from protocol.errors import SegueError
from protocol.keys import write_private

# ---- configuration ----


def test_layers_win_in_order_and_say_so(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("worker: {slots: 3, keep_alive_s: 10}\nlog: {level: debug}\n")
    found = config.resolve(
        file, {"SEGUE_WORKER_SLOTS": "5", "SEGUE_RUNTIME": "/x/y: z"}, ["worker.keep_alive_s=-1"]
    )
    rows = {key: (value, origin) for key, value, origin in config.describe(found)}
    assert rows["worker.slots"] == (5, "environment SEGUE_WORKER_SLOTS")
    assert rows["worker.keep_alive_s"] == (-1, "command line worker.keep_alive_s=-1")
    assert rows["log.level"] == ("debug", f"file {file}") and rows["log.keep"][1] == "default"
    assert found.settings.folders.runtime == "/x/y: z"


@pytest.mark.parametrize(
    "text",
    [
        "worker: {slotz: 1}", "wurker: {}", "worker: 3", "- 1", "worker: {slots: many}", "worker: {slots: 0}",
        "log: {level: loud}", "worker: {keep_alive_s: .nan}", "worker: [", "worker: {devices: []}",
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(config.ConfigError) as error:
        config.check_file(file)
    assert "\n" not in str(error.value)
    with pytest.raises(config.ConfigError):
        config.check_file(tmp_path / "absent.yaml")


# ---- folders, sockets, locks ----


def test_only_folders_of_our_own_are_used(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    assert stat.S_IMODE(security.owner_only_folder(loose).stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(loose)
    with pytest.raises(security.UnsafePath):
        security.owner_only_folder(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises((security.UnsafePath, FileExistsError)):
        security.owner_only_folder(tmp_path / "file")
    settings = config.Settings(folders=config.Folders(runtime=str(tmp_path / ("x" * 120))))
    with pytest.raises(security.UnsafePath):
        security.runtime_folder(settings)


def test_the_socket_is_ours_and_replaces_nothing_else(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("music")
    with pytest.raises(security.UnsafePath):
        security.listening_socket(precious)
    assert precious.read_text() == "music"
    path = tmp_path / "s"
    security.listening_socket(path).close()
    listener = security.listening_socket(path)  # a dead daemon's socket is in nobody's way
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_one_lock_one_owner(tmp_path: Path) -> None:
    lock = lifecycle.Lock(tmp_path, {"pid": 1, "version": "2", "since": "3", "endpoint": "ipc://4"})
    with pytest.raises(
        lifecycle.AlreadyRunning, match=r"pid 1, version 2, since 3, at ipc://4; it is starting or ending\.$"
    ):
        lifecycle.Lock(tmp_path, {})
    lock.release()
    lifecycle.Lock(tmp_path, {}).release()


def test_private_files_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


# ---- journal ----


def _create(book: Journal, key: bytes | None = None) -> journal.JobRow:
    row = journal.JobRow(
        id=book.next_id(), key=key or secrets.token_bytes(16), digest=b"d", session=b"", project="p",
        priority="batch", model="m", spec={"a": [1, {"b": b"c"}]}, state=journal.QUEUED, attempt=0, strikes=0,
        last_seq=1, void_seq=0, need_bytes=1, created_ns=1,
    ).sealed()  # fmt: skip
    book.create(row, journal.EventRow(row.id, 1, "accepted", 1, {"position": 0}))
    return book.job(row.id)


def test_the_journal_keeps_numbers_and_states(tmp_path: Path) -> None:
    book = Journal(tmp_path / "journal.db")
    job = _create(book)
    assert job.spec == {"a": [1, {"b": b"c"}]} and job.last_seq == 1
    attempt, event = book.start(job.id, {})
    assert (attempt, event.seq, book.job(job.id).strikes) == (1, 2, 1)
    book.append(job.id, [NewEvent("audio", {"n": n}, place=n, bytes=4) for n in range(3)])
    assert book.requeue(job.id, {"why": ""}, forgiven=True).seq == 6
    row = book.job(job.id)
    assert (row.strikes, row.void_seq, row.state) == (0, 6, "queued")
    assert book.start(job.id, {})[0] == 2 and history.void_attempts(book, row) == 1
    book.requeue(job.id, {"why": ""}, forgiven=False, discard=False)
    assert book.job(job.id).void_seq == 6 and history.void_attempts(book, book.job(job.id)) == 1
    book.finish(job.id, journal.DONE, NewEvent("done", {}))
    book.close()
    again = Journal(tmp_path / "journal.db")
    assert [e.seq for e in again.events(job.id, 0)] == list(range(1, 10))
    assert again.events(job.id, 2, 1)[0].place == 0 and again.last_event(job.id).type == "done"
    again.forget(job.id)
    assert again.by_key(job.key).state == journal.FORGOTTEN and not again.events(job.id, 0)
    with pytest.raises(SegueError):
        _create(again, job.key)
    assert _create(again).id == job.id + 1 == again.next_id() - 1
    again.close()


# ---- spool and takes ----


def test_a_flipped_bit_is_never_served(tmp_path: Path) -> None:
    store = TakeStore(tmp_path, quota_bytes=1 << 30, keep_free_bytes=0)
    store.put_inputs(1, [b"abc"])
    writer = SpoolWriter(store.spool_folder(1) / "1.pcm")
    data = np.arange(100, dtype="<f4").tobytes()
    placed = [writer.append(Chunk(1, 0, 0, at, 50, 48_000, 2), data) for at in (0, 50)]
    writer.sync()
    writer.close()
    event = {"attempt": 1, "variation": 0, "stem": "mix", "position": 50, "frames": 50, "channels": 2}
    event["crc"] = placed[1].crc
    where = (placed[1].place, placed[1].total_bytes)
    assert store.read_chunk(1, event, *where, done=False, take_frames=1000) == data
    path = store.spool_folder(1) / "1.pcm"
    sound = path.read_bytes()
    for bit in np.random.default_rng(5).integers(where[0] * 8, len(sound) * 8, 200):
        broken = bytearray(sound)
        broken[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(broken)
        with pytest.raises(SegueError) as error:
            store.read_chunk(1, event, *where, done=False, take_frames=1000)
        assert error.value.code == "E_TAKE_DAMAGED"
    path.unlink()
    with pytest.raises(SegueError) as error:
        store.read_chunk(1, event, *where, done=False, take_frames=1000)
    assert error.value.code == "E_TAKE_MISSING"


def test_space_is_counted_and_promised(tmp_path: Path) -> None:
    store = TakeStore(tmp_path, quota_bytes=10_000, keep_free_bytes=0)
    store.put_inputs(1, [bytes(4000)])
    store.space.hold(1, 100_000)  # what is only held does not count
    store.space.recount(1)
    store.space.check(5000, 1000)
    with pytest.raises(SegueError):
        store.space.check(5000, 1001)
    store.drop_spool(1)
    assert store.space.used_bytes == 0
    assert TakeStore(tmp_path, quota_bytes=1, keep_free_bytes=0).highest_id() == 0


def test_reconcile_removes_only_what_is_nobodys(tmp_path: Path) -> None:
    store = TakeStore(tmp_path, quota_bytes=1 << 30, keep_free_bytes=0)
    for job in (1, 2, 3, 4):
        store.put_inputs(job, [b"x"])
        (store.spool_folder(job) / "1.pcm").write_bytes(b"y")
        store.take_folder(job).mkdir()
        (store.take_folder(job) / "v0.mix.wav").write_bytes(b"z")
        (store.take_folder(job) / ".v1.mix.wav.part").write_bytes(b"z")
    store.put_inputs(5, [b"x"])
    store.reconcile({1: "done", 2: "running", 3: "cancelled"})
    # audio that was made is never deleted unasked, a submit that did not come through is
    assert store.spool_folder(4).exists() and store.take_folder(4).exists()
    assert not store.spool_folder(5).exists()
    assert (store.take_folder(1) / "v0.mix.wav").exists() and not (store.spool_folder(1) / "1.pcm").exists()
    assert not store.take_folder(2).exists() and not store.take_folder(3).exists()
    assert (store.spool_folder(3) / "1.pcm").exists()
    assert (store.spool_folder(2) / "input.raw").read_bytes() == b"x"
    assert not list(store.takes.glob("*/.*"))


def test_wav_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio = np.linspace(-1.5, 1.5, 20, dtype="<f4")
    size, _ = write_wav(path, [audio[:8].tobytes(), audio[8:].tobytes()], rate=44_100, channels=2, frames=10)
    read, rate = sf.read(path, dtype="float32")
    assert rate == 44_100 and size == path.stat().st_size and np.array_equal(read.ravel(), audio)
    with pytest.raises(ValueError):
        write_wav(path, [b"abcd"], rate=44_100, channels=1, frames=2)
    assert not list(tmp_path.iterdir())


# ---- link, metrics ----


def test_messages_survive_any_cut() -> None:
    data = encode({"op": "a", "x": b"y" * 300}) + encode({"op": "b"})
    for cut in (1, 2, 3, 7, 50):
        decoder, found = Decoder(), []
        for at in range(0, len(data), cut):
            found += decoder.feed(data[at : at + cut])
        assert [message["op"] for message in found] == ["a", "b"]
    for bad in (b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", b"\x01\0\0\0\x80", b"\x02\0\0\0\x91\x01"):
        with pytest.raises(LinkError):
            Decoder().feed(bad)


def test_labels_cannot_break_the_text() -> None:
    metrics = Metrics()
    metrics.count("requeues", reason='a"b\\c\nd')
    metrics.observe("wait_seconds", 3)
    text = metrics.text()
    assert 'reason="a\\"b\\\\c\\nd"' in text and 'segue_wait_seconds_bucket{le="5"} 1' in text
    with pytest.raises(KeyError):
        metrics.count("misspelt")


# ---- samples ----


def _facts(rate: int = 32_000, channels: int = 1) -> ModelFacts:
    return ModelFacts("m", rate, channels, 640, ("mix",), (), "cpu", "float32")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_056, 44_100, 44_101, 48_000, 96_000, 384_000])
def test_resampled_voices_stay_on_the_grid(rate: int) -> None:
    """A sine through the whole way is the sine at the host's rate, at every position, handle included."""
    facts, frames = _facts(), rate // 2 + 7
    host = HostShape(rate, 1, frames, None)
    voice = Voice(facts, host, 2560)
    total = model_frames(host, facts) * 640
    time = np.arange(-2560, total) / 32_000
    wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
    pieces = []
    for start in range(0, wave.shape[1], 3000):
        piece = wave[:, start : start + 3000]
        pieces.append(voice.push(piece, start + 3000 >= wave.shape[1]))
    at = pieces[0][0]
    assert at == -voice.handle_frames == -(2560 * rate // 32_000)
    for position, samples in pieces:
        assert position == at or not samples.shape[1]
        at += samples.shape[1]
    assert at == frames
    got = np.concatenate([samples for _, samples in pieces], axis=1)[0]
    exact = 0.5 * np.sin(2 * np.pi * 440 * np.arange(-voice.handle_frames, frames) / rate)
    inside = slice(
        voice.handle_frames, None
    )  # the handle's first samples ring: the model made nothing before
    assert np.abs(got[inside] - exact[inside]).max() < 1e-3


def test_prompts_end_on_the_seam() -> None:
    facts = _facts()
    assert trimmed_frames(44_100 + 17, 44_100, facts) == 17 and trimmed_frames(100, 48_000, facts) == 1
    time = np.arange(-44_100, 0) / 44_100
    prompt = np.sin(2 * np.pi * 300 * time).astype(np.float32)[None]
    got = to_model(prompt, 44_100, facts)
    assert got.shape == (1, 32_000)
    exact = np.sin(2 * np.pi * 300 * np.arange(-32_000, 0) / 32_000)
    assert np.abs(got[0, 500:-500] - exact[500:-500]).max() < 1e-3
    assert to_model(np.ones((2, 10), np.float32), 32_000, facts).shape == (1, 10)


def test_level_is_matched_within_reason() -> None:
    tone = np.sin(np.arange(3000) / 9).astype(np.float32)[None]
    assert abs(match_level(tone, 0.7 * tone).applied_db - 3.1) < 0.01
    assert (
        match_level(tone, 0.01 * tone).applied_db == 6 and match_level(tone, 0.01 * tone).to_map()["clamped"]
    )
    assert match_level(tone, 1e-5 * tone).applied_db == 0 == match_level(0 * tone, tone).applied_db
    envelope = match_level(tone, 2 * tone).envelope(-10, 32_000 * 5, 32_000)
    assert (
        np.allclose(envelope[:10], 10 ** (-6 / 20)) and envelope[-1] == 1 and (np.diff(envelope) >= 0).all()
    )


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_loudness_of_the_reference_tone(rate: int) -> None:
    """ITU-R BS.1770: a 997 Hz sine at full scale in one channel reads -3.01 LUFS."""
    tone = np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate).astype(np.float32)[None]
    assert abs(integrated_lufs(tone, rate) + 3.01) < 0.05
    assert abs(integrated_lufs(np.repeat(tone, 2, axis=0), rate)) < 0.05
    gated = np.concatenate([tone, 0 * tone], axis=1)
    assert abs(integrated_lufs(gated, rate) + 3.01) < 0.4
    assert integrated_lufs(0 * tone, rate) is None and integrated_lufs(tone[:, :100], rate) is not None


def test_memory_is_back_when_the_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    from daemon import release, vram
    from daemon.workers.local import LocalWorker

    used = [10_000, 10_000, 6_000, 1_500]
    monkeypatch.setattr(vram, "used_bytes", lambda: used.pop(0))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        worker = LocalWorker("w", "cuda", "m", process, facts={"device": "cuda:0 x"}, memory_bytes=8_000)
        waiting = release.Release([worker])
        process.wait()
    assert [waiting.complete() for _ in range(3)] == [False, False, True]
    assert waiting.measured and waiting.freed_bytes == 8_500
