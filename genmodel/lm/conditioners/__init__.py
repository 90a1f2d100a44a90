"""The conditioners, one kind a file: T5, look-up table, words, per-frame conditions, melody.

``build.py`` makes them from a checkpoint's configuration; text encoders are given to it (``EncoderSource``).
"""
