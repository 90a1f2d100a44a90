"""The daemon: one process that answers every host within 50 ms, and worker processes that make the audio.

What lives here: configuration, the ROUTER and its poll loop, the jobs with their journal and takes, the
scheduler, the life of the process, and the workers. May import ``protocol`` anywhere and ``genmodel`` (with
torch, numpy, soxr) only under ``workers``, which runs in its own processes. Offered to others: the command
``python -m daemon`` (see ``__main__``), ``daemon.config`` and ``daemon.lifecycle``; everything else is
reached over the wire (``protocol/SPEC.md``).

Threading model: the front-end is one thread and one poll loop; a worker process is one thread; they speak
over pipes. Nothing in this package starts a thread.
"""

__version__ = "0.1.0"
