"""Tests of the daemon: real processes, a model whose samples say where they belong."""
