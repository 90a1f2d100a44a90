"""Benches: every file here with ``run(args) -> dict`` is one, which ``python -m tests.bench NAME`` runs.

Beside ``run`` a bench may have

* ``AIMS``: a tuple of ``aims.Aim``, what its figures should reach; they become rows of ``RESULTS.md``;
* ``table(result) -> str``: the result for reading;
* ``absent() -> str | None``: why it cannot run on this machine, in a sentence;
* ``OF_ALL = False``: ``python -m tests.bench all`` leaves it out;
* ``ALL_ARGUMENTS``: words that ``all`` adds for it.

Nothing here judges a time: the test suite only looks whether a bench runs and its figures hang together.
"""
