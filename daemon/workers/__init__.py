"""Worker processes: one per device, one model each, ended to give the memory back.

``local`` starts and watches a process from the front-end; ``main`` is that process; ``link`` frames the
control messages between them; ``interface`` is what both sides agree on. Only what runs inside the worker
process may import torch, numpy, soxr or ``genmodel``.
"""
