"""The audio codecs: waveforms to tokens and back.

What lives here: SEANet (convolutions, LSTM), residual vector quantisation, EnCodec, wrappers for stereo and stems, the
exact streaming decode, and the construction of all of these from AudioCraft's and Hugging Face's files.
May import: torch, omegaconf, ``genmodel.errors``. Interface: ``CompressionModel`` and everything listed in ``__all__``.
"""
