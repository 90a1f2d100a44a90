"""``manifest.json``: all that is needed to know how a folder of takes came to be, and to make it again.

Keys: ``request`` (the wire's own words), ``seed``, ``model`` (name, hash, licence), ``started`` (device,
precision), ``input`` (the recording and the seam in it), ``takes`` (a row per variation and stem: file,
frames, peak, loudness, clipped samples, SHA-256, and the same of its handle), ``joined``, ``times``, and
``daemon``: what the daemon told.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.build import VERSION
from protocol.submit import Submit

if TYPE_CHECKING:
    from bridge_clients.audio_files import Excerpt, Subtype, WrittenFile
    from bridge_clients.cli.landing import LandedStem
    from bridge_clients.cli.running import Outcome

FORMAT = 1


def rounded(value: float | None) -> float | None:
    """Milliseconds are enough for a person."""
    return None if value is None else round(value, 3)


def xrt(submit: Submit, outcome: Outcome) -> float | None:
    """Length of a take over the time that all takes took: how many times faster than they play they were
    made.
    """
    if outcome.total_s <= 0:
        return None
    return submit.length_frames / submit.host_rate_hz / outcome.total_s


def model_name(submit: Submit, outcome: Outcome) -> str:
    """The model that played, as the daemon tells it."""
    told = outcome.manifest.get("model")
    if isinstance(told, dict):
        told = told.get("name")
    return str(told or (outcome.started and outcome.started.model) or submit.model or "the default model")


def write_manifest(
    folder: Path,
    *,
    command: str,
    submit: Submit,
    excerpt: Excerpt | None,
    subtype: Subtype,
    stems: Sequence[LandedStem],
    joined: Sequence[tuple[int, WrittenFile]],
    overview: str | None,
    outcome: Outcome,
) -> None:
    """Write it, last of all: a folder that has one is complete."""
    from bridge_clients.audio_files import publish

    request = submit.to_map()
    key = request.pop("key")
    content = {
        "manifest": FORMAT,
        "segue": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "job": outcome.job,
        "key": key.hex(),
        "request": request,
        "seed": outcome.seed,
        "model": outcome.manifest.get("model") or {"name": model_name(submit, outcome)},
        "started": outcome.started.to_map() if outcome.started else None,
        "rate_hz": submit.host_rate_hz,
        "channels": submit.host_channels,
        "frames": submit.length_frames,
        "seconds": submit.length_frames / submit.host_rate_hz,
        "subtype": subtype,
        "input": _input(excerpt) if excerpt else None,
        "takes": [
            {
                "variation": item.variation,
                "stem": item.stem,
                **_file(item.take),
                **_measured(outcome, item),
                "handle": _file(item.handle) if item.handle else None,
            }
            for item in stems
        ],
        "joined": [{"variation": number, **_file(written)} for number, written in joined],
        "overview": overview,
        "times": {
            "started_s": rounded(outcome.started_s),
            "first_audio_s": rounded(outcome.first_audio_s),
            "total_s": rounded(outcome.total_s),
            "xrt": rounded(xrt(submit, outcome)),
        },
        "daemon": outcome.manifest,
    }
    temporary = folder / ".manifest.json.writing"
    temporary.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8", "backslashreplace"
    )
    publish(temporary, folder / "manifest.json")


def _input(excerpt: Excerpt) -> dict[str, Any]:
    info = excerpt.info
    return {
        "path": str(info.path.absolute()),
        "rate_hz": info.rate_hz,
        "channels": info.channels,
        "subtype": info.subtype,
        "heard_from_sample": excerpt.start_frame,
        "seam_sample": excerpt.end_frame,
        "seam_s": excerpt.end_frame / info.rate_hz,
    }


def _file(written: WrittenFile) -> dict[str, Any]:
    return {
        "file": written.path.name,
        "frames": written.frames,
        "peak": round(written.peak, 6),
        "peak_dbfs": round(20 * math.log10(written.peak), 2) if written.peak > 0 else None,
        "clipped_samples": written.clipped_samples,
        "sha256": written.sha256,
    }


def _measured(outcome: Outcome, item: LandedStem) -> dict[str, Any]:
    """Loudness, which the daemon measured on the same samples."""
    for take in outcome.manifest.get("takes") or ():
        if take.get("variation") != item.variation - 1:
            continue
        for entry in take.get("files") or ():
            if entry.get("stem") == item.stem and entry.get("part") == "take":
                return {"loudness_lufs": entry.get("lufs"), "rms_dbfs": entry.get("rms_db")}
    return {"loudness_lufs": None, "rms_dbfs": None}
