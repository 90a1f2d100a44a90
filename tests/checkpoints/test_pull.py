"""Pulling: from a loopback hub with the real client, from folders; interrupted, damaged, unreachable."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genmodel.checkpoints import download, registry
from genmodel.checkpoints.download import FolderSource, Progress, RemoteFile, choose, pull, verify
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from tests.checkpoints.loopback_hub import LoopbackHub
from tests.checkpoints.making import T5, copy_golden, musicgen, save
from tests.golden_files import folder

SMALL = "facebook/musicgen-small"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    monkeypatch.setenv("SEGUE_HUB", hub.address)
    yield hub
    hub.close()


def nothing_is_named(models: Path) -> bool:
    return not models.is_dir() or all(
        path.name.startswith(".") or path.name.endswith(".part") for path in models.iterdir()
    )


def test_a_published_model_comes_and_plays(hub: LoopbackHub, models: Path, tmp_path: Path) -> None:
    origin = save(musicgen(), tmp_path / "origin", max_shard_size="500KB")
    (origin / "pytorch_model.bin").write_bytes(b"a pickle that nobody wants")
    (origin / "README.md").write_text("words")
    hub.repos[SMALL] = origin
    seen: list[Progress] = []
    with pytest.warns(UserWarning, match=SMALL):
        target = registry.pull("small", seen.append)
    assert target == models / "facebook--musicgen-small"
    assert "pytorch_model.bin" not in hub.downloads() and not (target / "pytorch_model.bin").exists()
    assert not (target / ".cache").exists() and [path.name for path in models.iterdir()] == [target.name]
    amounts = [state.done for state in seen]
    assert amounts == sorted(amounts) and amounts[-1] == seen[-1].total > 1_000_000
    assert seen[-1].licence == "CC-BY-NC 4.0"
    receipt = json.loads((target / "segue.json").read_text())
    assert receipt["name"] == SMALL and receipt["files"]["config.json"]["digest"].startswith("blob:")
    _, lm, info = registry.load(SMALL, device="cpu")
    assert info.licence == "CC-BY-NC 4.0" and torch.equal(
        lm.emb[0].weight, musicgen().decoder.model.decoder.embed_tokens[0].weight
    )
    before = len(hub.downloads())
    assert pull(SMALL) == target and len(hub.downloads()) == before


def test_what_a_model_names_comes_with_it(hub: LoopbackHub, models: Path, tmp_path: Path) -> None:
    audiogen = copy_golden("audiogen-tiny", tmp_path / "origin")
    package = torch.load(audiogen / "state_dict.bin", weights_only=True)
    package["xp.cfg"] = package["xp.cfg"].replace("t5-tiny-211", "t5-large")
    torch.save(package, audiogen / "state_dict.bin")
    codec = tmp_path / "codec"
    codec.mkdir()
    (audiogen / "compression_state_dict.bin").rename(codec / "compression_state_dict.bin")
    torch.save({"pretrained": "facebook/encodec_16khz"}, audiogen / "compression_state_dict.bin")
    hub.repos = {
        "facebook/audiogen-medium": audiogen,
        "google-t5/t5-large": folder("t5-tiny-211"),
        "facebook/encodec_16khz": codec,
    }
    pull("facebook/audiogen-medium")
    assert sorted(path.name for path in models.iterdir()) == [
        "facebook--audiogen-medium",
        "facebook--encodec_16khz",
        "google-t5--t5-large",
    ]
    _, _, info = registry.load("facebook/audiogen-medium", device="cpu")
    assert info.family == "audiogen" and info.licence == "CC-BY-NC 4.0"


def test_an_interrupted_pull_goes_on_where_it_was(hub: LoopbackHub, models: Path, tmp_path: Path) -> None:
    hub.repos[SMALL] = save(musicgen(), tmp_path / "origin")

    def stop(state: Progress) -> None:
        if state.file == "model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(SMALL, stop)
    assert nothing_is_named(models) and registry.resolve(SMALL) is None
    first = hub.downloads()
    pull(SMALL)
    again = hub.downloads()[len(first) :]
    assert first and not set(first) & set(again)  # what was whole is not fetched twice
    assert registry.resolve(SMALL) is not None


def test_a_dropped_connection_is_taken_up_again(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.repos[SMALL] = save(musicgen(), tmp_path / "origin")
    hub.cut["model.safetensors"] = 300_000
    try:
        pull(SMALL)
    except GenModelError as error:  # the client gave up: the next pull goes on
        assert error.code == "E_MODEL"
        pull(SMALL)
    assert registry.load(SMALL, device="cpu")[2].name == SMALL


def test_damage_on_the_way_is_found(hub: LoopbackHub, models: Path, tmp_path: Path) -> None:
    hub.repos[SMALL] = save(musicgen(), tmp_path / "origin")
    hub.damage.add("model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors arrived damaged"):
        pull(SMALL)
    assert nothing_is_named(models)
    hub.damage.clear()
    pull(SMALL)
    assert registry.resolve(SMALL) is not None


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "no model named"), (401, "no model named"), (403, "answered 403"), (503, "answered 503")],
)
def test_refusals_of_the_hub_are_one_sentence(
    hub: LoopbackHub, models: Path, status: int, words: str
) -> None:
    hub.status[SMALL] = status
    with pytest.raises(GenModelError, match=words) as caught:
        pull(SMALL)
    assert caught.value.code == "E_MODEL" and "\n" not in str(caught.value) and nothing_is_named(models)


@pytest.mark.parametrize("how", ["refused", "offline switch"])
def test_without_a_network_it_says_what_to_do(
    how: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HUB", "http://127.0.0.1:9")
    if how == "offline switch":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GenModelError, match="cannot be reached") as caught:
        pull(SMALL)
    assert "segue pull" in str(caught.value) and "\n" not in str(caught.value) and nothing_is_named(models)


def test_the_command(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SEGUE_HUB": "http://127.0.0.1:9"}
        command = [sys.executable, "-m", "genmodel.checkpoints", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    failed = run("pull", SMALL)
    assert failed.returncode == 4 and failed.stdout == ""
    assert failed.stderr.startswith("segue: ") and failed.stderr.count("\n") == 1
    done = run("pull", str(folder("audiogen-tiny")))
    assert done.returncode == 0 and "Licence: unknown" in done.stdout, done.stderr
    assert run("push", "x").returncode == 2


def test_a_folder_is_copied_with_what_lies_around_it(models: Path) -> None:
    origin = folder("musicgen-tiny-stereo")
    assert pull(origin.as_uri()) == models / "musicgen-tiny-stereo"
    assert (models / "t5-tiny-111").is_dir()
    _, _, info = registry.load("musicgen-tiny-stereo", device="cpu")
    assert info.path == models / "musicgen-tiny-stereo"


def test_folders_that_hold_no_model(tmp_path: Path, models: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model in a form"):
        pull(str(tmp_path / "empty"))
    with pytest.raises(ModelNotFound, match="no folder"):
        pull((tmp_path / "nowhere").as_uri())
    with pytest.raises(ModelNotFound, match="neither"):
        pull("nonsense")
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(folder("audiogen-tiny") / "state_dict.bin", half)
    with pytest.raises(CheckpointError, match="is no model"):
        pull(str(half))
    assert nothing_is_named(models)


def test_no_room_is_said_before_anything_is_fetched(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(models.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(GenModelError, match="has room for"):
        pull(str(folder("audiogen-tiny")))
    assert nothing_is_named(models)


def test_a_models_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "file"))
    with pytest.raises(GenModelError, match="cannot be stored"):
        pull(str(folder("audiogen-tiny")))


def _hold(
    part: str, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    with download._alone(Path(part), "x"):
        ready.set()
        done.wait(30)


def test_two_pulls_of_one_model_do_not_meet(models: Path) -> None:
    models.mkdir()
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(models / "audiogen-tiny.part"), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(GenModelError, match="another process"):
            pull(str(folder("audiogen-tiny")))
    finally:
        done.set()
        other.join()
    pull(str(folder("audiogen-tiny")))


@pytest.mark.parametrize(
    "repo", ["facebook/musicgen-style", "facebook/magnet-small-10secs", "facebook/jasco-chords-drums-1B"]
)
def test_models_that_could_not_be_read_are_not_fetched(hub: LoopbackHub, repo: str) -> None:
    with pytest.raises(CheckpointError, match="does not read"):
        pull(repo)
    assert not hub.requests


def names(files: list[str]) -> list[str]:
    return [file.name for file in choose([RemoteFile(name, 1) for name in files])]


def test_one_kind_of_weights_is_chosen() -> None:
    both = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "state_dict.bin",
        "compression_state_dict.bin",
        "x.msgpack",
    ]
    assert names(both) == ["config.json", "model.safetensors"]
    assert names(both[2:]) == ["pytorch_model.bin"]
    assert names(both[3:]) == ["compression_state_dict.bin", "state_dict.bin"]
    shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert names([*shards, "tf_model.h5", "sub/model.safetensors"]) == shards
    assert names(["lm.safetensors", "lm.yaml", "codec.safetensors", "codec.yaml", "manifest.json"]) == [
        "codec.safetensors",
        "codec.yaml",
        "lm.safetensors",
        "lm.yaml",
        "manifest.json",
    ]
    assert names(["README.md", "config.json"]) == []


def test_files_are_checked_by_size_and_hash(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"hello\n")
    verify(file, RemoteFile("x", 6, "blob:ce013625030ba8dba906f756967f9e9ca394464a"))
    verify(
        file, RemoteFile("x", 6, "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
    )
    for wrong in (
        RemoteFile("x", 7),
        RemoteFile("x", 6, "blob:" + "0" * 40),
        RemoteFile("x", 6, "sha256:" + "0" * 64),
    ):
        with pytest.raises(CheckpointError):
            verify(file, wrong)


def test_a_text_encoder_can_be_pulled_alone(models: Path) -> None:
    assert pull(str(T5)) == models / "t5-tiny-11"
    assert FolderSource(T5).listing().name == "t5-tiny-11"
