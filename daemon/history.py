"""What can be told from the events of a job that is to go on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from daemon.journal import JobRow, Journal


@dataclass(frozen=True)
class Announced:
    """An attempt's audio that counts: so many chunks, the last of which ends at byte `end` of its spool."""

    attempt: int
    chunks: int
    end: int


def void_attempts(journal: Journal, row: JobRow) -> int:
    """How many attempts of a job were given up for good; the audio of later ones still counts."""
    ((count,),) = journal.query(
        "SELECT count(*) FROM event WHERE job=? AND type='started' AND seq<=?", (row.id, row.void_seq)
    )
    return int(count)


def announced(journal: Journal, job: int) -> list[Announced]:
    """What each attempt has announced that is not void, oldest first; attempts without audio are left out."""
    starts = journal.query(
        "SELECT seq FROM event WHERE job=? AND seq>? AND type='started' ORDER BY seq",
        (job, journal.job(job).void_seq),
    )
    found = []
    for first, last in itertools.pairwise([*(seq for (seq,) in starts), 2**62]):
        ((chunks, end),) = journal.query(
            "SELECT count(*), max(place+bytes) FROM event WHERE job=? AND seq>? AND seq<? AND type='audio'",
            (job, first, last),
        )
        if chunks:
            (started,) = journal.events(job, first - 1, 1)
            found.append(Announced(started.data["attempt"], chunks, end))
    return found


def reached(journal: Journal, row: JobRow) -> tuple[int, int, int]:
    """Step, steps and samples that a job had made at its last audio that counts."""
    ((seq,),) = journal.query(
        "SELECT max(seq) FROM event WHERE job=? AND seq>? AND type='audio'", (row.id, row.void_seq)
    )
    found = journal.events(row.id, seq - 1, 1)[0].data.get("reached") if seq else None
    step, steps, samples = found or (0, 0, 0)
    return step, steps, samples
