"""From a checked request to files in a folder: what ``continue``, ``generate`` and ``demo`` have in
common.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from typing import TYPE_CHECKING, Any

from bridge_clients.cli import connect as connection
from bridge_clients.cli.exits import CANCELLED, DONE
from bridge_clients.cli.landing import Collector, Folder, LandedStem, joined, land, new_folder
from bridge_clients.cli.manifest import model_name, rounded, write_manifest, xrt
from bridge_clients.cli.progress import Reporter, reporter_for
from bridge_clients.cli.request import bar_lines_s
from bridge_clients.cli.running import Outcome, run_job
from protocol.submit import Retake, Submit

if TYPE_CHECKING:
    from bridge_clients.audio_files import Excerpt, Subtype, WrittenFile

CONDITIONS = {
    "description": "words (--text)",
    "transport": "the tempo (the length is exact all the same)",
    "harmony": "harmony",
    "context": "other tracks",
    "following": "what comes after (length and tail are exact all the same)",
}
_HOW = {"accompany": "accompanied", "vary": "varied", "fill": "filled"}
_STEMS_GUESS = 4  # for the room on the disk, before the model has said what it makes


@dataclasses.dataclass(frozen=True)
class Making:
    """One job as the command sees it: the request, where it came from, how it is to be written."""

    command: str
    name: str
    submit: Submit
    subtype: Subtype
    excerpt: Excerpt | None = None
    after: Excerpt | None = None
    again: Retake | None = None  # instead of the request itself: `submit` then only says how it comes out


def make(args: Any, making: Making) -> int:
    """Run the job and write its files; returns the exit status. Refusals and failures leave nothing
    behind.
    """
    reporter = reporter_for(args)
    try:
        return _make(args, making, reporter)
    finally:
        reporter.close()


def _make(args: Any, making: Making, reporter: Reporter) -> int:
    submit = making.submit
    folder = new_folder(args.out, making.name)
    collector = Collector(folder.path, rate_hz=submit.host_rate_hz, channels=submit.host_channels)
    try:
        stems = _STEMS_GUESS if args.stems else 1
        # Float parts and finished files lie side by side for a moment.
        folder.need(2.0 * submit.length_frames * submit.host_channels * 4 * submit.variations * stems)
        with connection.connect(reporter=reporter) as client:
            if client.skew:
                reporter.note(client.skew)
            state = client.ping()
            if state.notice:
                reporter.note(state.notice)
            if state.paused:
                reporter.note("The daemon is paused; `segue resume` in another terminal lets it go on.")
            outcome = run_job(client, submit, collector, reporter, _cancel, making.again)
        if outcome.cancelled:
            reporter.event("cancelled", message="Cancelled; nothing was kept here.")
            reporter.note(f"Cancelled: job {outcome.job} has stopped, and nothing was kept here.")
            return CANCELLED
        reporter.writing()
        try:
            written = _write(args, making, folder, collector, outcome, reporter)
        except BaseException:
            folder.remove_takes()
            reporter.note(f"The daemon still has the takes: segue takes export {outcome.job}")
            raise
        _tell(making, folder, written, outcome, reporter)
        return DONE
    finally:
        collector.close()
        folder.remove_if_empty()


def _cancel(job: str) -> None:
    with connection.connect(autostart=False) as client:
        client.cancel(job)


@dataclasses.dataclass(frozen=True)
class _Written:
    """What lies in the folder at the end."""

    stems: list[LandedStem]
    joined: list[tuple[int, WrittenFile]]
    picture: str | None


def _write(
    args: Any, making: Making, folder: Folder, collector: Collector, outcome: Outcome, reporter: Reporter
) -> _Written:
    """All files, the manifest last."""
    stems = land(
        collector,
        folder.path,
        frames=making.submit.length_frames,
        subtype=making.subtype,
        tail_frames=making.submit.tail_frames,
    )
    joined_files = _write_joined(making, folder, collector)
    picture = _draw(making, folder, collector, outcome, reporter) if args.overview else None
    write_manifest(
        folder.path,
        command=making.command,
        submit=making.submit,
        excerpt=making.excerpt,
        subtype=making.subtype,
        stems=stems,
        joined=joined_files,
        overview=picture,
        outcome=outcome,
    )
    return _Written(stems, joined_files, picture)


def _tell(making: Making, folder: Folder, written: _Written, outcome: Outcome, reporter: Reporter) -> None:
    """What was written, what is worth knowing about it, and where it is."""
    for item in written.stems:
        _tell_file(reporter, item.take, "take", item.variation, item.stem)
        if item.handle:
            _tell_file(reporter, item.handle, "handle", item.variation, item.stem)
        if item.tail:
            _tell_file(reporter, item.tail, "tail", item.variation, item.stem)
    for number, file in written.joined:
        _tell_file(reporter, file, "joined", number, "mix")
    if written.picture:
        reporter.event("file", path=str(folder.path / written.picture), kind="overview")
    reporter.event("file", path=str(folder.path / "manifest.json"), kind="manifest")
    model = model_name(making.submit, outcome)
    for name in outcome.manifest.get("ignored") or ():
        reporter.note(f"{model} does not listen to {CONDITIONS.get(name, name)}: that was left aside.")
    for item in written.stems:
        if item.take.clipped_samples:
            reporter.note(
                f"{item.take.path.name}: {item.take.clipped_samples} samples were louder than full scale "
                f"(peak {item.take.peak:.3f}) and were clipped; --subtype float keeps them."
            )
    reporter.event(
        "done",
        folder=str(folder.path),
        files=sorted(entry.name for entry in folder.path.iterdir() if not entry.name.startswith(".")),
        seed=outcome.seed,
        model=model,
        started_s=rounded(outcome.started_s),
        first_audio_s=rounded(outcome.first_audio_s),
        total_s=rounded(outcome.total_s),
        xrt=rounded(xrt(making.submit, outcome)),
    )
    reporter.close()
    reporter.summary(_last_words(making, folder, written, outcome))


def _tell_file(reporter: Reporter, written: WrittenFile, kind: str, variation: int, stem: str) -> None:
    reporter.event(
        "file", path=str(written.path), kind=kind, variation=variation, stem=stem, frames=written.frames
    )


def _write_joined(making: Making, folder: Folder, collector: Collector) -> list[tuple[int, WrittenFile]]:
    """``v1.joined.wav`` …: what was heard before and the mix of the take, in one file."""
    from bridge_clients.audio_files import write_wav

    if making.excerpt is None and making.after is None:
        return []
    frames, lead = making.submit.length_frames, making.submit.lead_frames
    after = making.after.samples if making.after else None
    found = []
    for variation, stem, handle, whole in collector.stems():
        if stem != "mix":
            continue
        prompt = making.excerpt.samples if making.excerpt else whole[:0]
        pieces = joined(prompt, handle, whole[:frames], lead=lead, tail=whole[frames:], after=after)
        path = folder.path / f"v{variation + 1}.joined.wav"
        found.append((variation + 1, write_wav(path, pieces, collector.rate_hz, making.subtype)))
    return found


def _draw(
    making: Making, folder: Folder, collector: Collector, outcome: Outcome, reporter: Reporter
) -> str | None:
    """``overview.png``; a picture that cannot be drawn is said, and costs nobody their takes."""
    import logging

    from bridge_clients.overview import Overview, TakePicture, draw

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its font cache is nobody's business here
    submit = making.submit
    rate = submit.host_rate_hz
    length_s = submit.length_frames / rate
    words = [model_name(making.submit, outcome)]
    if outcome.seed is not None:
        words.append(f"seed {outcome.seed}")
    words.extend(_tempo_words(submit))
    words.append(f"{rate / 1000:g} kHz {'stereo' if submit.host_channels == 2 else 'mono'}")
    if submit.text:
        words.append(f"“{submit.text[:60]}{'…' if len(submit.text) > 60 else ''}”")
    how = _HOW.get(making.submit.mode, "goes on" if making.excerpt else "generated")
    overview = Overview(
        title=f"{_printable(making.name)} {how} for {_length_words(submit)}",
        subtitle=" · ".join(words),
        rate_hz=rate,
        takes=[
            TakePicture(f"take {variation + 1}", take[: submit.length_frames])
            for variation, stem, _handle, take in collector.stems()
            if stem == "mix"
        ],
        prompt=making.excerpt.samples if making.excerpt else None,
        bar_lines_s=bar_lines_s(submit, max(length_s, 4.0), length_s),
    )
    try:
        draw(overview, folder.path / "overview.png")
    except Exception as error:  # whatever a drawing library may raise: the takes are what counts
        from bridge_clients.cli.incident import write_incident

        write_incident(error)
        reporter.note(f"overview.png could not be drawn ({type(error).__name__}); the takes are complete.")
        (folder.path / "overview.png").unlink(missing_ok=True)
        return None
    return "overview.png"


def _printable(name: str) -> str:
    """A file's name without the bytes that are no text."""
    return name.encode("utf-8", "replace").decode()


def _tempo_words(submit: Submit) -> list[str]:
    if submit.tempo_map is None:
        return []
    change = submit.tempo_map.changes[0]
    from protocol.fields import fraction

    return [f"{float(fraction(change.bpm)):g} BPM {change.beats}/{change.unit}"]


def _length_words(submit: Submit) -> str:
    if submit.length is not None and submit.length.bars is not None:
        bars = submit.length.bars
        return f"{bars} bar{'' if bars == 1 else 's'}"
    return f"{submit.length_frames / submit.host_rate_hz:.3f}".rstrip("0").rstrip(".") + " s"


def _last_words(making: Making, folder: Folder, written: _Written, outcome: Outcome) -> list[str]:
    submit = making.submit
    seconds = submit.length_frames / submit.host_rate_hz
    in_bars = submit.length is not None and submit.length.bars is not None
    in_seconds = f", {seconds:.3f} s" if in_bars else ""
    takes = f"{submit.variations} take{'s' if submit.variations > 1 else ''}"
    waited = f" ({outcome.started_s:.2f} s until the model was ready)" if outcome.started_s else ""
    at_once = " each, all at once" if submit.variations > 1 else ""
    lines = [
        f"{takes} of {_length_words(submit)} ({submit.length_frames} samples{in_seconds}) from "
        f"{model_name(making.submit, outcome)}, seed {outcome.seed}.",
        f"First audio after {outcome.first_audio_s or 0:.2f} s{waited}, "
        f"all of it after {outcome.total_s:.2f} s: {xrt(submit, outcome) or 0:.2f} × real time{at_once}.",
        f"Files in {folder.path}:",
    ]
    if written.joined:
        names = ", ".join(file.path.name for _number, file in written.joined)
        lines.append(f"  {names}: what was there and how it goes on, in one file")
    for item in written.stems:
        if item.variation == 1:
            of = f"v1…v{submit.variations}" if submit.variations > 1 else "v1"
            what = "the take alone, from the seam on" if item.stem == "mix" else "its stem"
            lines.append(f"  {of}.{item.stem}.wav: {what}")
    if written.picture:
        lines.append(f"  {written.picture}: waveform and spectrogram, the seam marked")
    first = written.joined[0][1].path if written.joined else written.stems[0].take.path
    lines.append(f"To hear it: {_player()} {_quoted(str(first))}")
    return lines


def _player() -> str:
    """A player that is on this machine, or the words to find one."""
    if sys.platform == "darwin":
        return "afplay"
    if sys.platform == "win32":
        return "start"
    for words in ("pw-play", "aplay -q", "ffplay -autoexit -nodisp", "mpv", "xdg-open"):
        if shutil.which(words.split()[0]):
            return words
    return "open in any player:"


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path) if sys.platform != "win32" else f'"{path}"'
