"""The chaos suite, `python -m tests.chaos`: faults from outside against the real daemon."""
