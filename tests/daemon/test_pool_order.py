"""Who goes next and what it costs: weights, turns, age; with a clock of the test's own."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from daemon.costs import CostEstimate
from daemon.scheduler import CLASSES, WEIGHTS, Scheduler, Waiting


def _jobs(order: list[Waiting]) -> list[int]:
    return [waiting.job for waiting in order]


def _serve(scheduler: Scheduler, queue: list[Waiting], seconds: float, now: float = 0.0) -> Counter[tuple]:
    """Serve one after the other, each taking what it is estimated to; seconds by (priority, session)."""
    served: Counter[tuple] = Counter()
    queue = list(queue)
    while sum(served.values()) < seconds and queue:
        first = scheduler.order(queue, now)[0]
        queue.remove(first)
        scheduler.started(first, now)
        scheduler.finished(first.job, first.cost_s)
        served[first.priority, first.session] += first.cost_s
    return served


def test_classes_share_by_weight_when_all_of_them_wait() -> None:
    scheduler = Scheduler(1e9, 1e9)
    queue = [
        Waiting(1000 * rank + n, priority.encode(), priority, 0.0, 0.5)
        for rank, priority in enumerate(CLASSES)
        for n in range(400)
    ]
    served = _serve(scheduler, queue, 210.0)
    for priority, weight in zip(CLASSES, WEIGHTS, strict=True):
        assert served[priority, priority.encode()] == pytest.approx(210 * weight / 21, abs=4), priority


def test_whoever_is_alone_has_it_all() -> None:
    scheduler = Scheduler(60, 600)
    queue = [Waiting(n, b"b", "batch", float(n), 1.0) for n in range(20)]
    assert _jobs(scheduler.order(queue, 30.0)) == list(range(20))


def test_a_newcomer_of_a_higher_class_is_next_whatever_it_costs_and_however_much_ran_before() -> None:
    scheduler = Scheduler(60, 600)
    batch = [Waiting(n, b"b", "batch", 0.0, 1.0) for n in range(60)]
    _serve(scheduler, batch, 40)
    new = Waiting(100, b"i", "interactive", 40.0, 30.0)
    assert _jobs(scheduler.order([*batch[41:], new], 40.0))[0] == 100
    scheduler.started(new, 40.0)
    live = Waiting(101, b"l", "live", 41.0, 5.0)
    more = Waiting(102, b"i", "interactive", 40.5, 1.0)
    assert _jobs(scheduler.order([*batch[41:], more, live], 41.0))[0] == 101


def test_batch_work_is_slow_but_never_starved() -> None:
    scheduler = Scheduler(60, 600)
    play = [Waiting(n, b"p", "interactive", 0.0, 1.0) for n in range(200)]
    served = _serve(scheduler, [*play, Waiting(999, b"n", "batch", 0.0, 1.0)], 40)
    assert served["batch", b"n"] == 1.0


def test_sessions_take_turns_by_seconds_not_by_jobs() -> None:
    scheduler = Scheduler(1e9, 1e9)
    queue = [Waiting(n, b"short", "interactive", 0.0, 0.5) for n in range(400)]
    queue += [Waiting(1000 + n, b"long", "interactive", 0.0, 8.0) for n in range(30)]
    served = _serve(scheduler, queue, 160)
    assert served["interactive", b"short"] == pytest.approx(80, abs=9)
    assert served["interactive", b"long"] == pytest.approx(80, abs=9)


def test_a_session_that_comes_later_is_next_and_saved_up_no_claim() -> None:
    scheduler = Scheduler(60, 600)
    first = [Waiting(n, b"a", "interactive", 0.0, 1.0) for n in range(100)]
    _serve(scheduler, first, 50)
    second = [Waiting(200 + n, b"b", "interactive", 50.0, 1.0) for n in range(50)]
    order = _jobs(scheduler.order([*first[50:], *second], 50.0))
    assert order[0] == 200  # it did not wait for the whole first session
    assert any(job < 200 for job in order[:4])  # and may not take 50 s at once for having been away


def test_within_a_session_jobs_keep_their_order() -> None:
    draw = random.Random(3)
    scheduler = Scheduler(60, 600)
    queue = [
        Waiting(n, bytes([draw.randrange(5)]), "interactive", float(n), draw.random()) for n in range(60)
    ]
    draw.shuffle(queue)
    order = scheduler.order(queue, 10.0)
    assert sorted(_jobs(order)) == list(range(60))
    for session in range(5):
        mine = [waiting.job for waiting in order if waiting.session == bytes([session])]
        assert mine == sorted(mine)


def test_age_lifts_a_job_one_class_and_nobody_into_two() -> None:
    scheduler = Scheduler(60, 600)
    interactive, batch = Waiting(1, b"", "interactive", 0.0), Waiting(2, b"", "batch", 0.0)
    assert [scheduler.lane(interactive, now) for now in (0, 59, 60, 1e6)] == [1, 1, 0, 0]
    assert [scheduler.lane(batch, now) for now in (0, 599, 600, 1e6)] == [2, 2, 1, 1]
    assert scheduler.lane(Waiting(3, b"", "live", 0.0), 1e6) == 0


def test_what_an_attempt_really_took_is_what_counts() -> None:
    scheduler = Scheduler(60, 600)
    greedy, modest = Waiting(1, b"g", "interactive", 0.0, 0.1), Waiting(2, b"m", "interactive", 0.0, 0.1)
    scheduler.started(greedy, 0.0)
    scheduler.started(modest, 0.0)
    scheduler.finished(1, 60.0)
    scheduler.finished(2, 0.1)
    scheduler.finished(77, 5.0)  # of nobody
    queue = [Waiting(10 + n, b"g", "interactive", 0.0, 1.0) for n in range(3)]
    queue += [Waiting(20 + n, b"m", "interactive", 1.0, 1.0) for n in range(3)]
    assert _jobs(scheduler.order(queue, 1.0))[:2] == [20, 21]
    scheduler.keep_only(set())
    assert _jobs(scheduler.order(queue, 1.0))[0] == 10


def test_the_order_of_many_jobs_is_found_quickly() -> None:
    import time

    scheduler = Scheduler(60, 600)
    queue = [Waiting(n, bytes([n % 7]), CLASSES[n % 3], n / 10, 5.0 + n % 11) for n in range(64)]
    begun = time.process_time()
    for _ in range(20):
        scheduler.order(queue, 100.0)
    assert (time.process_time() - begun) / 20 < 0.02


# ---- costs ----


def test_costs_are_learnt() -> None:
    costs = CostEstimate(1.0)
    assert costs.seconds("m", 8, 4) == 16 and not costs.known("m")
    costs.learn("m", 8, 1, 4)
    assert costs.known("m") and costs.seconds("m", 2, 1) == 1
    costs.learn("m", 0, 1, 4)
    costs.learn("m", 8, 1, 0)
    assert costs.seconds("m", 2, 1) == 1


def test_costs_survive_a_restart_and_nonsense_does_not() -> None:
    kept: dict[str, str] = {}
    costs = CostEstimate(1.0, lambda name: kept.get(name, ""), kept.__setitem__)
    costs.learn("m", 8, 1, 4)
    for _ in range(50):
        costs.learn("m", 8, 1, 4.1)  # hardly any change: hardly any writes
    assert list(kept) == ["cost/m"]
    again = CostEstimate(1.0, lambda name: kept.get(name, ""), kept.__setitem__)
    assert again.known("m") and again.seconds("m", 8, 1) == pytest.approx(4, rel=0.11)
    for nonsense in ("", "x", "nan", "inf", "-1", "0"):
        kept["cost/m"] = nonsense
        assert not CostEstimate(1.0, lambda name: kept.get(name, "")).known("m")
