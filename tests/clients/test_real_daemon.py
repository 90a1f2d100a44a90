"""The client and the daemon, each as it ships: start, questions, stop. No model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_clients import Client, new_key
from protocol import messages as m
from protocol.errors import SegueError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runtime", "state", "models"):
        monkeypatch.setenv(f"SEGUE_{name.upper()}", str(tmp_path / name))
    return tmp_path


def test_start_ask_and_stop(folders: Path) -> None:
    said: list[str] = []
    with Client(on_wait=said.append, timeout_s=20) as client:
        assert "Starting the daemon." in said
        assert client.skew is None
        assert client.hello.protocol == (1, 1) and client.ping().boot == client.hello.boot
        assert client.list(limit=None) == []
        assert "segue_" in client.metrics()
        with pytest.raises(SegueError) as caught:
            client.status("41")
        assert caught.value.code == "E_JOB"
        assert client.pause().paused
        submit = m.Submit(key=new_key(), mode="generate", length=m.Length(seconds=1), model="debug")
        job = client.submit(submit)
        assert client.submit(submit).id == job.id and client.submit(submit).again
        assert next(iter(job.events())) == m.Accepted(seq=1, time_ms=client.status(job.id).created_ms)
        assert [found.job for found in client.list()] == [job.id]
        assert job.cancel().state == "cancelled"
        assert [type(e) for e in job.events()] == [m.Cancelled]
        client.forget(job.id)
        assert not client.resume().paused
        with Client(autostart=False) as second:
            assert second.hello.pid == client.hello.pid
        client.stop(finish="none", timeout_s=20)
    with pytest.raises(SegueError) as caught:
        Client(autostart=False)
    assert caught.value.code == "E_UNREACHABLE"
