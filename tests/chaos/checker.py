"""Judge a history: what every host saw, against what the daemon says and has on its disk at the end."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import work
from tests.chaos.line import Line
from tests.chaos.report import Report

FINAL = ("done", "failed", "cancelled")


class Told:
    """All that hosts were told about one job, and what they asked of it."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.key = ""
        self.task: work.Task | None = None
        self.events: dict[int, tuple[str, dict[str, Any]]] = {}
        self.asked_cancel = self.asked_forget = self.forgot = self.fetched = False
        self.cancel_state = ""


def plain_event(event: m.Event) -> tuple[str, dict[str, Any]]:
    """An event as a history has it."""
    data = event.to_map()
    for name in ("event", "seq", "payload"):
        data.pop(name, None)
    return event.event, json.loads(json.dumps(data))


def read_histories(paths: list[Path], report: Report) -> dict[str, Told]:
    """Jobs by id from all hosts' files; notes contradictions between the lines."""
    jobs: dict[str, Told] = {}
    for path in paths:
        tasks: dict[str, work.Task] = {}
        ids: dict[str, str] = {}
        seeds: dict[str, int] = {}
        for line in path.read_bytes().splitlines():
            entry = json.loads(line)
            what = entry["what"]
            if what == "submit":
                tasks[entry["key"]] = work.from_map(entry["task"])
            elif what == "ack":
                key, job = entry["key"], entry["job"]
                report.count("submits answered")
                report.expect(ids.setdefault(key, job) == job, f"key {key} is job {ids[key]} and job {job}")
                report.expect(seeds.setdefault(key, entry["seed"]) == entry["seed"], f"job {job}: two seeds")
                told = jobs.setdefault(job, Told(job))
                report.expect(told.key in ("", key), f"job {job} has two keys")
                told.key, told.task = key, tasks[key]
            elif what == "event":
                seen(jobs[entry["job"]], entry["seq"], (entry["kind"], entry["data"]), report)
            elif what == "cancel":
                jobs[entry["job"]].asked_cancel = True
            elif what == "cancel answered":
                jobs[entry["job"]].cancel_state = entry["state"]
            elif what == "forget":
                jobs[entry["job"]].asked_forget = True
            elif what == "forgot":
                jobs[entry["job"]].forgot = True
            elif what == "fetched":
                jobs[entry["job"]].fetched = True
                report.count("takes fetched and compared")
            elif what == "wrong":
                report.broken.append(f"{path.stem}, job {entry['job']}: {entry['why']}")
            elif what in ("refused", "nothing", "paused"):
                report.count({"nothing": "requests without answer", "paused": "found paused"}.get(what, what))
                if what == "refused" and entry["code"] == "E_INTERNAL":
                    report.broken.append(f"{path.stem}: {entry['code']} {entry['message']}")
        for key in tasks:
            report.expect(key in ids, f"{path.stem}: the submit {key} was never answered")
    return jobs


def seen(told: Told, seq: int, event: tuple[str, dict[str, Any]], report: Report) -> None:
    before = told.events.setdefault(seq, event)
    report.expect(before == event, f"job {told.job}: event {seq} was {before}, later {event}")


def judge_events(told: Told, report: Report, *, failures: bool = False) -> str:
    """The rules of one job's whole story; returns how it ended."""
    job, task = told.job, told.task
    assert task is not None
    seqs = sorted(told.events)
    if not report.expect(seqs == list(range(1, len(seqs) + 1)), f"job {job}: gaps in event numbers {seqs}"):
        return ""
    due = dict.fromkeys(task.voices, task.first)
    attempt, state = 0, "queued"
    for seq in seqs:
        kind, data = told.events[seq]
        where = f"job {job}, event {seq} ({kind})"
        report.expect(state not in FINAL, f"{where} comes after the job was {state}")
        if kind == "accepted":
            report.expect(seq == 1, f"{where}: accepted twice")
        elif kind == "started":
            report.expect(
                data["attempt"] == attempt + 1, f"{where}: attempt {data['attempt']} after {attempt}"
            )
            report.expect(state == "queued", f"{where}: started while {state}")
            attempt, state = data["attempt"], "running"
        elif kind == "audio":
            voice = (data["variation"], data["stem"])
            if not report.expect(voice in due, f"{where}: nobody asked for {voice}"):
                continue
            report.expect(state == "running", f"{where}: audio while {state}")
            report.expect(
                data["attempt"] == attempt, f"{where} is of attempt {data['attempt']}, not {attempt}"
            )
            report.expect(
                data["position"] == due[voice], f"{where}: {voice} at {data['position']}, due {due[voice]}"
            )
            due[voice] = data["position"] + data["frames"]
            report.count("audio events")
        elif kind == "requeued":
            report.expect(state == "running", f"{where}: requeued while {state}")
            state = "queued"
            discard = data.get("discard_from")
            report.count("attempts that went on" if discard is None else "attempts that began again")
            if discard is not None:
                due = {voice: min(at, max(discard, task.first)) for voice, at in due.items()}
        elif kind in FINAL:
            state = kind
            if kind == "done":
                report.expect(
                    all(at == task.frames for at in due.values()),
                    f"{where}: audio up to {due}, not {task.frames}",
                )
            if kind == "failed" and not failures:
                report.broken.append(f"job {job} is lost: {data['error']}")
    return state


def ask_all(line: Line, job: str) -> dict[int, tuple[str, dict[str, Any]]]:
    """Every event of a job as the daemon has it now."""
    events: dict[int, tuple[str, dict[str, Any]]] = {}
    after = 0
    while True:
        reply = line.ask(m.Next(job=job, after=after, max_bytes=0))
        for event in reply.events:
            events[event.seq] = plain_event(event)
        if not reply.events:
            return events
        after = reply.events[-1].seq


def judge_daemon(jobs: dict[str, Told], line: Line, report: Report, *, failures: bool = False) -> None:
    """Compare with what the daemon says now: the same events, the same ends, nothing more or less."""
    for told in jobs.values():
        if told.forgot or told.asked_forget:
            try:
                line.ask(m.Status(job=told.job))
                report.expect(not told.forgot, f"job {told.job} was forgotten and is here")
            except SegueError as error:
                report.expect(error.code == "E_JOB", f"job {told.job}: forgotten, and {error}")
        else:
            try:
                now = ask_all(line, told.job)
                said = line.ask(m.Status(job=told.job)).info.state
            except SegueError as error:
                report.broken.append(f"job {told.job} is lost: {error}")
                continue
            for seq in told.events:
                report.expect(seq in now, f"job {told.job}: event {seq} is gone")
            for seq, event in now.items():
                seen(told, seq, event, report)
        ended = judge_events(told, report, failures=failures)
        report.count(f"jobs {ended or 'broken'}")
        report.expect(ended in FINAL, f"job {told.job} is {ended}, not at an end")
        if not (told.forgot or told.asked_forget):
            report.expect(said == ended, f"job {told.job} is {said}, its events say {ended}")
        if told.cancel_state:
            report.expect(
                told.cancel_state == ended, f"job {told.job}: cancel said {told.cancel_state}: {ended}"
            )
        if ended == "cancelled":
            report.expect(told.asked_cancel, f"job {told.job} was cancelled and nobody asked")


def judge_list(jobs: dict[str, Told], line: Line, report: Report) -> None:
    """The list has each job once, and no others."""
    listed: list[str] = []
    before = None
    while True:
        reply = line.ask(m.List(limit=500, before=before))
        listed += [info.job for info in reply.jobs]
        before = reply.next
        if before is None:
            break
    wanted = {job for job, told in jobs.items() if not told.forgot}
    maybe = {job for job, told in jobs.items() if told.asked_forget}
    report.expect(len(listed) == len(set(listed)), "a job is listed twice")
    report.expect(not (set(listed) - wanted), f"jobs that nobody knows: {sorted(set(listed) - wanted)[:9]}")
    missing = wanted - maybe - set(listed)
    report.expect(not missing, f"jobs that are not listed: {sorted(missing)[:9]}")


def judge_disk(jobs: dict[str, Told], state: Path, report: Report) -> None:
    """Journal and folders of a daemon that was stopped: one row a key, no orphans, no part files."""
    database = sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True)
    try:
        report.expect(
            database.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "the journal is not sound"
        )
        keys = defaultdict(list)
        for job, key in database.execute("SELECT id, key FROM job"):
            keys[bytes(key).hex()].append(str(job))
    finally:
        database.close()
    report.expect(len(keys) == len(jobs), f"{len(keys)} jobs in the journal, {len(jobs)} keys were answered")
    for told in jobs.values():
        report.expect(keys.get(told.key) == [told.job], f"job {told.job}: its key is {keys.get(told.key)}")
    parts = [path.name for root in ("takes", "spool") for path in (state / root).rglob(".*.part")]
    report.expect(not parts, f"part files are left: {parts[:5]}")
    for told in jobs.values():
        kind = told.events[max(told.events)][0] if told.events else ""
        take, spool = state / "takes" / told.job, state / "spool" / told.job
        if told.forgot:
            report.expect(
                not take.exists() and not spool.exists(), f"job {told.job} was forgotten, files stay"
            )
        elif kind == "done" and not told.asked_forget:
            report.expect((take / "manifest.json").exists(), f"job {told.job} is done and has no manifest")
    for root in ("takes", "spool"):
        strays = [path.name for path in (state / root).iterdir() if path.name not in jobs]
        report.expect(not strays, f"{root} of no job: {strays[:5]}")
