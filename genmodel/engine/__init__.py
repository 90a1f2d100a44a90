"""How tokens are made fast: sessions (values), the stepper (slots and caches), kernels by device, noise by
position.

Imports ``genmodel.lm`` and ``genmodel.codec``; its interface is ``Engine`` (several jobs, audio out) and
``generate_tokens`` (rows of codes, for AudioCraft's face).
"""
