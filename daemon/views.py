"""Jobs and models as clients are told of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from daemon import journal as rows
from daemon.config import Settings
from daemon.flow import Flow
from daemon.inventory import Inventory
from daemon.jobs import JobBook
from daemon.journal import JobRow, Journal
from daemon.pool import Pool
from daemon.takes import TakeStore
from daemon.workers.local import LocalWorker
from protocol import replies, requests
from protocol.errors import SegueError

LISTED_TEXT = 160  # characters of a text in a list
PAGE = 100
_LIST_ROOM_BYTES = 48 * 1024
# what clients see as a state, and what the journal calls it
_JOURNALED = {state: state for state in ("queued", "running", "done", "failed", "cancelled")}
_JOURNALED |= {"loading": "queued", "cancelling": "running"}


class Views:
    """Reads only. Owned by the front-end's one thread."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        takes: TakeStore,
        book: JobBook,
        pool: Pool,
        flow: Flow,
        inventory: Inventory,
    ) -> None:
        self._settings, self._journal, self._takes, self._book = settings, journal, takes, book
        self._pool, self._flow, self._inventory = pool, flow, inventory

    # ---- jobs ----

    def job(self, row: JobRow, *, whole: bool) -> replies.JobInfo:
        """`whole`: with the full text, error and manifest; else as a line of a list."""
        active = self._book.active.get(row.id)
        last = self._journal.last_event(row.id) if active is None else None
        text = row.spec["request"].get("text")
        manifest = last.data["manifest"] if last is not None and last.type == "done" else None
        request = row.spec["request"]
        return replies.JobInfo(
            job=str(row.id),
            state=self._flow.state_of(row),
            mode=request["mode"],
            model=row.model,
            text=text if whole or text is None else text[:LISTED_TEXT],
            project=row.project or None,
            session=row.session or None,
            worker=self._pool.worker_of(row.id),
            deadline_left_ms=_left_ms(None if active is None else active.deadline_s),
            priority=row.priority,
            position=active.position if active is not None and active.state == rows.QUEUED else 0,
            attempt=row.attempt,
            last=row.last_seq,
            seed=row.spec["seed"],
            variations=request.get("variations", 1),
            stems=tuple(manifest["stems"] if manifest else request.get("stems") or ()),
            rate=row.spec["rate"],
            channels=row.spec["channels"],
            frames=row.spec["frames"],
            lead_frames=row.spec.get("lead", 0),
            created_ms=row.created_ns // 1_000_000,
            ended_ms=None if row.finished_ns is None else row.finished_ns // 1_000_000,
            folder=str(self._takes.take_folder(row.id)) if row.state == rows.DONE else None,
            size_bytes=self._takes.space.of(row.id),
            tick=self._book.tick(active) if active is not None else None,
            error=SegueError.from_map(last.data["error"])
            if last is not None and last.type == "failed"
            else None,
            manifest=manifest if whole else None,
        )

    def jobs(self, request: requests.List) -> replies.ListReply:
        """As many as were asked for and fit into one header."""
        before = int(request.before) if request.before and request.before.isdigit() else None
        found: list[replies.JobInfo] = []
        size = 0
        for row in self._rows(request, before):
            info = self.job(row, whole=False)
            if request.states is not None and info.state not in request.states:
                continue
            size += len(rows.pack(info.to_map()))
            if found and (len(found) >= request.limit or size > _LIST_ROOM_BYTES):
                return self._listed(found, found[-1].job)
            found.append(info)
        return self._listed(found, None)

    def _listed(self, found: list[replies.JobInfo], following: str | None) -> replies.ListReply:
        space = self._takes.space
        return replies.ListReply(
            jobs=tuple(found), next=following, used_bytes=space.used_bytes, quota_bytes=space.quota_bytes
        )

    def _rows(self, request: requests.List, before: int | None) -> Iterator[JobRow]:
        """Newest first, a page at a time, so that a long history costs only what is looked at."""
        states = None if request.states is None else sorted({_JOURNALED[state] for state in request.states})
        while True:
            page = self._journal.jobs(
                session=request.session, project=request.project, states=states, before=before, limit=PAGE
            )
            yield from page
            if len(page) < PAGE:
                return
            before = page[-1].id

    def file_entry(self, row: JobRow, name: str) -> dict[str, Any]:
        """What the manifest says about a finished file; raises E_TAKE_MISSING."""
        last = self._journal.last_event(row.id)
        manifest = last.data["manifest"] if last is not None and last.type == "done" else {}
        for take in manifest.get("takes", ()):
            for entry in take["files"]:
                if entry["name"] == name:
                    return entry
        raise SegueError("E_TAKE_MISSING", f"This job has no file {name}.", field="stem", value=name)

    # ---- models ----

    def worker_state(self, worker: LocalWorker) -> str:
        return {"loading": "loading", "loaded": "loaded"}.get(worker.state, "unloading")

    def models(self) -> list[replies.ModelInfo]:
        """What the machine has, what is loaded, and what was loaded before."""
        entries = {str(entry.get("name")): entry for entry in self._inventory.entries}
        names = dict.fromkeys([*entries, *self._pool.known, *(worker.model for worker in self._pool.workers)])
        return [self._model(name, entries.get(name, {})) for name in names]

    def _model(self, name: str, entry: dict[str, Any]) -> replies.ModelInfo:
        worker, known = self._pool.with_model(name), self._pool.known.get(name, {})
        facts = {**{key: value for key, value in entry.items() if value not in (None, "", [])}, **known}
        if worker is not None:
            state = self.worker_state(worker)
        elif self._pool.quarantined(name):
            state = "quarantined"
        else:
            present = entry.get("present", entry.get("path") is not None or not entry)
            state = "ready_to_load" if present else "absent"
        resident = worker is not None and worker.state == "loaded"
        now = time.monotonic()
        refusal = self._pool.refusals.get(name)
        reason = self._pool.rest.reason(name, now) if worker is None else None
        return replies.ModelInfo(
            name=name,
            state=state,
            size_bytes=_count(facts.get("size_bytes", facts.get("bytes"))),
            memory_bytes=_count(
                worker.memory_bytes if resident and worker else self._pool.memory.measured_bytes(name)
            ),
            rate=_count(facts.get("rate", facts.get("sample_rate"))),
            channels=_count(facts.get("channels")),
            stems=tuple(str(stem) for stem in facts.get("stems", ())),
            conditions=tuple(str(condition) for condition in facts.get("conditions", ())),
            device=str(known["device"]) if resident else None,
            precision=str(known["precision"]) if resident else None,
            licence=str(facts["licence"]) if facts.get("licence") else None,
            **_keep_alive(worker if resident else None, now),
            worker=None if worker is None else worker.name,
            jobs=() if worker is None else tuple(str(job) for job in worker.aboard),
            reason=(reason or (refusal.message if refusal else None) or "")[:1000] or None,
            retry_ms=None if reason is None else round(1000 * self._pool.rest.waits_s(name, now)),
            path=str(facts["path"]) if facts.get("path") else None,
            note=str(facts["note"])[:1000] if facts.get("note") else None,
        )


def _left_ms(until_s: float | None) -> int | None:
    return None if until_s is None else max(0, round(1000 * (until_s - time.monotonic())))


def _keep_alive(worker: LocalWorker | None, now_s: float) -> dict[str, Any]:
    """How long a loaded model stays when idle, and how much of that is left if it is."""
    if worker is None or worker.keep_alive_s < 0:
        return {}
    left_s = worker.keep_alive_s - (now_s - worker.idle_since_s)
    left = {} if worker.aboard else {"keep_alive_left_ms": max(0, round(1000 * left_s))}
    return {"keep_alive_ms": round(1000 * worker.keep_alive_s), **left}


def _count(value: Any) -> int | None:
    return (
        int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None
    )
