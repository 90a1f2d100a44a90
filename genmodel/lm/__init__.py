"""The token language model: shape, codebook patterns, transformer, sampling, and what it is conditioned on.

Imports torch and ``genmodel.errors`` only; its interface is ``LMModel`` (``lm.py``) and ``LMConfig``
(``config.py``).
"""
