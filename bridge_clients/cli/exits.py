"""Exit statuses of the command, and how a typed error becomes one sentence and one of them.

====== =====================================================
status meaning
====== =====================================================
0      done
1      a defect in Segue itself; an incident file was written
2      bad argument or usage
3      bad audio, or a file that cannot be read or written
4      the model is missing, broken or does not fit the request
5      the daemon cannot be reached
6      refused for now: queue, disk or memory full, or paused
7      the job failed while it ran
130    cancelled by Ctrl-C
====== =====================================================
"""

from __future__ import annotations

from protocol.errors import SegueError

DONE, DEFECT, USAGE, AUDIO, MODEL, UNREACHABLE, BUSY, FAILED, CANCELLED = 0, 1, 2, 3, 4, 5, 6, 7, 130

_BY_CODE = {
    "E_ARGUMENT": USAGE,
    "E_TOO_LONG": USAGE,
    "E_JOB": USAGE,
    "E_KEY_REUSE": USAGE,
    "E_SIZE": USAGE,
    "E_HEADER": USAGE,
    "E_AUDIO": AUDIO,
    "E_TAKE_MISSING": AUDIO,
    "E_TAKE_DAMAGED": AUDIO,
    "E_MODEL": MODEL,
    "E_NOT_READY": UNREACHABLE,
    "E_VERSION": UNREACHABLE,
    "E_UNKNOWN_OP": UNREACHABLE,
    "E_UNREACHABLE": UNREACHABLE,
    "E_TIMEOUT": UNREACHABLE,
    "E_QUEUE_FULL": BUSY,
    "E_DISK_FULL": BUSY,
    "E_MEMORY": BUSY,
    "E_PAUSED": BUSY,
    "E_DRAINING": BUSY,
}


def status_of(error: SegueError) -> int:
    """The exit status for an error; codes of the job family, and any that this version does not know, are
    7.
    """
    return _BY_CODE.get(error.code, FAILED)


def sentence_of(error: SegueError) -> str:
    """One line: the message, completed by what is allowed where the message does not say it."""
    message = " ".join(str(error.message).split()).rstrip(".")
    if error.allowed and str(error.allowed) not in message:
        message += f" (allowed: {error.allowed})"
    return message + "."
