"""The conditioners, one kind a file: T5, look-up table, words, per-frame conditions, melody; ``build.py``
makes them from a checkpoint's configuration and ``encoders.py`` finds text encoders on this machine.
"""
