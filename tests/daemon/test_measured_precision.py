"""``worker.precision=auto`` follows what was measured here; a job under way meanwhile is never spliced."""

from __future__ import annotations

import pytest
import torch

from genmodel import measured
from genmodel.checkpoints import registry
from genmodel.engine.kernels import packing_available
from protocol import messages as m
from tests.daemon.house import House, joined, submit

pytestmark = pytest.mark.skipif(
    not packing_available(torch.bfloat16), reason="this processor has no bfloat16 kernels"
)


def _measure(house: House) -> None:
    """As if segue bench had found bfloat16 safe and fast for pocket."""
    _, lm, info = registry.load("pocket", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_NATIVE", "0")  # as the house has it
        kernels = measured.kernels_of("float32") or ""
    exact = measured.Figures(kernels, xrt=2.0, kl=0.0, kl_p99=0.0, top1=1.0, tokens=6000)
    close = measured.Figures(kernels, xrt=3.0, kl=1e-5, kl_p99=1e-4, top1=0.99, tokens=6000)
    record = measured.Record(
        info.sha256 or "", "cpu", measured.processor(lm.device), 1, "2026-11-23T02:00:00+00:00",
        {"float32": exact, "bfloat16": close},
    )  # fmt: skip
    measured.save(record, house.folder / "models" / ".measured.json")


def test_a_job_keeps_its_take_whole_when_another_precision_was_measured_meanwhile() -> None:
    house = House("worker.threads=1", "life.drain_s=0.1", "takes.chunk_s=0.25", model="pocket", real=True)
    house.hook["SEGUE_NATIVE"] = "0"  # else the record that pocket brings would count
    try:
        with house.start().client() as wire:
            whole = wire.events(wire.ask(submit(0.5, mode="generate", rate=32_000)).job, wait_s=120)
            manifest = whole[-1].manifest
            assert (manifest["precision"], manifest["precision_why"]) == (
                "float32", "auto: not measured here",
            )  # fmt: skip
            job = wire.ask(submit(1.5, mode="generate", rate=32_000)).job
            while not any(
                e.event == "audio" for e in wire.ask(m.Next(job=job, wait_ms=2000, max_bytes=0)).events
            ):
                pass
            house.stop()
        _measure(house)
        with house.start().client() as wire:
            events = wire.events(job, wait_s=120)
            assert events[-1].event == "done"
            requeued = [e for e in events if e.event == "requeued"]
            assert requeued[-1].discard_from is not None
            assert "was float32, and is bfloat16" in requeued[-1].why
            assert joined(events)[1].shape == (2, 48_000)  # all of it by one attempt
            manifest = events[-1].manifest
            assert manifest["precision"] == "bfloat16"
            assert "1.5 times as fast as float32" in manifest["precision_why"]
            twin = wire.events(wire.ask(submit(1.5, mode="generate", rate=32_000)).job, wait_s=120)
            assert (joined(twin)[1] == joined(events)[1]).all()
        house.stop()
        (house.folder / "models" / ".measured.json").write_text("{")
        house.settings.append("worker.precision=float32")
        with house.start().client() as wire:
            events = wire.events(wire.ask(submit(0.5, mode="generate", rate=32_000)).job, wait_s=120)
            manifest = events[-1].manifest
            assert (manifest["precision"], manifest["precision_why"]) == ("float32", "asked for")
            assert (joined(events)[1] == joined(whole)[1]).all()
    finally:
        house.close()
