"""AudioGen: text to sounds."""

from __future__ import annotations

from typing import Any

from genmodel.base import BaseGenModel
from genmodel.errors import CheckpointError


class AudioGen(BaseGenModel):
    """AudioCraft's ``AudioGen``: 5 s by default, windows 2 s apart."""

    default_duration_s = 5.0
    default_stride_s = 2.0
    default_coef = 3.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "self_wav" in self.conditions:
            raise CheckpointError("this checkpoint listens to melodies: load it as MusicGen", field="model")

    @classmethod
    def get_pretrained(cls, name: str = "facebook/audiogen-medium", device: Any = None) -> AudioGen:
        """An AudioGen by name (see ``BaseGenModel.get_pretrained``)."""
        from genmodel.checkpoints import registry

        codec, lm, info = registry.load(name, device, family="audiogen")
        return cls(name, codec, lm, info=info)
