"""What every test needs before anything heavy is imported."""

from __future__ import annotations

import os
import signal

# libgomp's threads wait by spinning unless told otherwise before it is loaded; with daemons and workers of
# the tests beside this process on two cores that cost pocket ten times its own time (31 s against 3.2 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's background jobs ignore Ctrl-C, and so would every program that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
