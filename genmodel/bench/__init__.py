"""What a user runs on their own machine: how fast each precision is there, and how far from float32.

``python -m genmodel.bench`` is what ``segue bench`` starts. ``quality`` compares distributions on the user's
own checkpoint, ``speed`` takes times, ``report`` and ``picture`` show them; what ``worker.precision=auto``
reads is kept by ``genmodel.measured``. Imports the engine and the codec; nothing imports this package.
"""
