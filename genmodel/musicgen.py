"""MusicGen: text to music, continuation, and melody where the checkpoint listens to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genmodel.audio import convert_audio
from genmodel.base import BaseGenModel
from genmodel.engine.session import Window
from genmodel.errors import ContractError, GenModelError
from genmodel.lm.conditioning import ConditioningAttributes, WavCondition

MELODY = "self_wav"


class MusicGen(BaseGenModel):
    """AudioCraft's ``MusicGen``: 15 s by default, windows 18 s apart."""

    default_duration_s = 15.0
    default_stride_s = 18.0
    default_coef = 3.0

    @classmethod
    def get_pretrained(cls, name: str = "facebook/musicgen-medium", device: Any = None) -> MusicGen:
        """A MusicGen by name (see ``BaseGenModel.get_pretrained``); short names like "small" work with a
        warning.
        """
        from genmodel.checkpoints import registry

        codec, lm, info = registry.load(name, device, family="musicgen")
        return cls(name, codec, lm, info=info)

    def generate_with_chroma(
        self,
        descriptions: Sequence[str | None],
        melody_wavs: Tensor | Sequence[Tensor | None],
        melody_sample_rate: int,
        progress: bool = False,
        return_tokens: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Audio [B, C, T] from descriptions and melodies: [B, C, T], [C, T], or a list of [C, T] or None.

        A take longer than one window reads its melody again and again, each window from its own place on.
        """
        if MELODY not in self.conditions:
            raise GenModelError(
                "this model takes no melody", field="melody_wavs", allowed="a melody checkpoint"
            )
        if isinstance(melody_wavs, Tensor):
            if melody_wavs.dim() not in (2, 3):
                raise GenModelError(
                    "melodies are [batch, channels, samples]",
                    code="E_AUDIO",
                    field="melody_wavs",
                    value=tuple(melody_wavs.shape),
                )
            melodies: list[Tensor | None] = list(melody_wavs if melody_wavs.dim() == 3 else melody_wavs[None])
        else:
            melodies = list(melody_wavs)
        rows = self._attributes(descriptions)
        if len(melodies) != len(rows):
            raise ContractError(
                "there must be one melody per description",
                field="melody_wavs",
                value=len(melodies),
                allowed=str(len(rows)),
            )
        wavs = [
            None if melody is None else convert_audio(melody, melody_sample_rate, self.sample_rate, 1)
            for melody in melodies
        ]
        if round(self.duration * self.frame_rate) <= self.window_frames:
            for row, wav in zip(rows, wavs, strict=True):
                row.wav = self._melody(wav)
            return self._finish(rows, None, progress, return_tokens)

        length = int(self.max_duration * self.sample_rate)

        def attributes_of(number: int, window: Window) -> ConditioningAttributes:
            wav = wavs[number]
            if wav is not None:
                first = window.start * self.compression_model.hop_samples
                wav = wav[:, torch.arange(first, first + length) % wav.shape[1]]
            return ConditioningAttributes(text=dict(rows[number].text), wav=self._melody(wav))

        return self._finish(rows, None, progress, return_tokens, attributes_of)

    def _melody(self, wav: Tensor | None) -> dict[str, WavCondition]:
        if wav is None:
            return {}
        length = torch.tensor([wav.shape[1]])
        return {MELODY: WavCondition(wav[None], length, [self.sample_rate], [None], [0.0])}
