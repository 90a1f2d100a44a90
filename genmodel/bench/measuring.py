"""Everything that ``segue bench`` measures of one model, as one plain map; and the record that is kept."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from genmodel import measured
from genmodel.bench import speed
from genmodel.bench.quality import distance, reference_takes
from genmodel.bench.speed import Plan, Tell
from genmodel.engine.kernels import choose_precision
from genmodel.errors import GenModelError

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def usable(model: BaseGenModel, asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The precisions to measure, float32 first, and why others are not there.

    Raises GenModelError for one that was asked for and does not run here.
    """
    found: list[str] = []
    absent: dict[str, str] = {}
    usual = choose_precision(None, model.device)
    for name in PRECISIONS:
        if asked and name not in (*asked, "float32", usual):
            continue
        try:
            choose_precision(name, model.device)
            found.append(name)
        except GenModelError as error:
            if asked and name in asked:
                raise
            absent[name] = error.message
    return found, absent


def measure(
    model: BaseGenModel, asked: Sequence[str] | None, plan: Plan, tell: Tell, save: bool = True
) -> dict[str, Any]:
    """All figures. With ``save`` the record that ``auto`` reads is kept, if enough was measured for it: all
    precisions (``asked`` None) by a plan with enough tokens. Raises GenModelError, OSError.
    """
    names, absent = usable(model, asked)
    load_before = os.getloadavg()[0]
    speed.release(model)
    tell("takes by float32 to compare with")
    takes = reference_takes(model, plan.takes, plan.frames_of_quality(model))
    precisions: dict[str, dict[str, Any]] = {}
    for name in names:
        speed.release(model)
        figures = speed.language_model(model, name, plan, tell) | speed.whole_takes(model, name, plan, tell)
        tell(f"{name}: how far it is from float32")
        figures["quality"] = asdict(distance(model, takes, name))
        figures["memory_bytes"] = speed.memory_bytes(model)
        precisions[name] = figures
    record = record_of(model, precisions)
    usual = choose_precision(None, model.device)
    choice = measured.best_of(record, usual) if usual in record.precisions else None
    for name, one in record.precisions.items():
        precisions[name]["unsafe"] = None if name == "float32" else one.unsafe
    result = {
        "model": model.name,
        "sha256": record.sha256,
        "device": str(model.device),
        "processor": record.processor,
        "threads": record.threads,
        "torch": torch.__version__,
        "date": record.date,
        "load": [load_before, os.getloadavg()[0]],
        "precisions": precisions,
        "absent": absent,
        "codec": speed.codec(model, plan, tell),
        "auto": usual if choice is None else choice.precision,
        "auto_why": None if choice is None else choice.why,
        "stored": None,
    }
    if save and record.sha256 and not asked and plan.tokens >= measured.MIN_TOKENS:
        result["stored"] = str(measured.save(record))
    return result


def record_of(model: BaseGenModel, precisions: dict[str, dict[str, Any]]) -> measured.Record:
    """What ``auto`` needs to know."""
    figures = {}
    for name, found in precisions.items():
        quality, kernels = found["quality"], measured.kernels_of(name)
        figures[name] = measured.Figures(
            kernels=kernels or "",
            xrt=found["xrt"],
            kl=quality["kl"],
            kl_p99=quality["kl_p99"],
            top1=quality["top1"],
            tokens=quality["tokens"],
        )
    sha256 = None if model.checkpoint is None else model.checkpoint.sha256
    return measured.Record(
        sha256=sha256 or "",
        device=model.device.type,
        processor=measured.processor(model.device),
        threads=torch.get_num_threads(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        precisions=figures,
    )
