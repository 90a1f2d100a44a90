"""The audio codecs: waveforms to tokens and back.

What lives here: SEANet (convolutions, LSTM), residual vector quantisation, EnCodec, wrappers for stereo and
stems, the exact streaming decode, and the construction of all of these from AudioCraft's and Hugging Face's
files. May import: torch, omegaconf, ``genmodel.errors``. Interface: ``CompressionModel`` and everything
listed in ``__all__``.
"""

from genmodel.codec.build import encodec_config_from_audiocraft, encodec_config_from_hf, load_encodec
from genmodel.codec.config import EncodecConfig, SEANetConfig
from genmodel.codec.encodec import CompressionModel, EncodecModel
from genmodel.codec.stream import CodecStream, CodecStreamState, push_together
from genmodel.codec.wrappers import (
    InterleaveStereoCompressionModel,
    StemsCompressionModel,
    get_wrapped_compression_model,
)

__all__ = [
    "CodecStream",
    "CodecStreamState",
    "CompressionModel",
    "EncodecConfig",
    "EncodecModel",
    "InterleaveStereoCompressionModel",
    "SEANetConfig",
    "StemsCompressionModel",
    "encodec_config_from_audiocraft",
    "encodec_config_from_hf",
    "get_wrapped_compression_model",
    "load_encodec",
    "push_together",
]
