"""BaseGenModel: the face that AudioCraft's users know, and ``stream`` beside it.

A script written for ``audiocraft.models`` runs after changing the import. Where this differs from AudioCraft
it does so on purpose: durations become frames by rounding, once; progress counts to the true total; every
row's randomness comes from a seed; a parameter that is not named keeps its value; the caller's ``cfg_coef``
is always honoured; what cannot be done is a ``GenModelError`` (which is a ``ValueError``) instead of an
assertion.

Threading model: one call at a time per model; a second thread waits. An ``Engine`` owns its own caches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from genmodel.audio import convert_audio
from genmodel.codec import CompressionModel, get_wrapped_compression_model
from genmodel.engine.captured.stepper import stepper_for
from genmodel.engine.kernels import choose_precision
from genmodel.engine.session import Window
from genmodel.engine.stepper import MAX_SLOTS
from genmodel.engine.windows import draw_seed, make_sessions, run_sessions
from genmodel.errors import ContractError, GenModelError
from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.lm.lm import LMModel
from genmodel.parameters import check_duration, sampling_of, segment_duration, tell_progress
from genmodel.request import AudioChunk, GenerationRequest, Sampling, check_text

if TYPE_CHECKING:
    from genmodel.checkpoints.info import CheckpointInfo

Progress = Callable[[int, int], None]
KEEP: Any = object()
"""Default of parameters that keep their value when they are not named."""
DESCRIPTION = "description"


class BaseGenModel:
    """A codec and a language model that generate audio together.

    ``max_duration`` (s): the longest window the language model makes in one go; the argument, else
    ``lm.cfg.dataset.segment_duration``, else a ValueError. ``duration`` (s): what ``generate`` makes.
    ``extend_stride`` (s): by how much windows advance when ``duration`` is longer. ``precision``: "auto" or
    as ``engine.kernels`` lists. ``capture``: "auto", "on" or "off", whether steps run as CUDA graphs.
    """

    default_duration_s: float | None = None
    default_stride_s: float | None = None
    default_coef: float | None = None  # the family's guidance; None: what the checkpoint was made for

    def __init__(
        self,
        name: str,
        compression_model: CompressionModel,
        lm: LMModel,
        max_duration: float | None = None,
        info: CheckpointInfo | None = None,
    ) -> None:
        self.name = name
        self.lm = lm.eval()
        self.checkpoint = info
        self.cfg: DictConfig | None = getattr(lm, "cfg", None)
        if self.cfg is not None and not isinstance(self.cfg, DictConfig):
            raise GenModelError(
                "lm.cfg must be an OmegaConf configuration", field="lm.cfg", value=type(self.cfg).__name__
            )
        codec = compression_model.eval()
        self.compression_model = codec if self.cfg is None else get_wrapped_compression_model(codec, self.cfg)  # type: ignore[arg-type]
        if max_duration is None:
            max_duration = segment_duration(self.cfg)
        self.max_duration = float(max_duration)
        self.device = next(iter(lm.parameters())).device
        half = self.device.type not in ("cpu", "mps")
        self.autocast = torch.autocast(self.device.type, torch.float16 if half else None, enabled=half)
        self.precision = "auto"
        self.capture = "auto"
        self.duration = self.default_duration_s or self.max_duration
        self._stride = self.default_stride_s
        own = self.default_sampling
        self.generation_params: dict[str, Any] = {
            "use_sampling": own.use_sampling,
            "temp": own.temperature,
            "top_k": own.top_k,
            "top_p": own.top_p,
            "cfg_coef": own.cfg_coef,
            "two_step_cfg": False,
            "cfg_coef_beta": None,
        }
        self.seed: int | None = None
        self.negative_text: str | None = None
        self._progress_callback: Progress | None = None
        self._lock = threading.RLock()

    @classmethod
    def get_pretrained(cls, name: str = "pocket", device: Any = None) -> BaseGenModel:
        """A model by name: "pocket", "debug", a repository id that was pulled, a folder, or a file.

        Nothing is downloaded. The class follows the checkpoint's family. Raises ModelNotFound,
        CheckpointError.
        """
        from genmodel.audiogen import AudioGen
        from genmodel.checkpoints import registry
        from genmodel.musicgen import MusicGen

        codec, lm, info = registry.load(name, device)
        family = AudioGen if info.family == "audiogen" else MusicGen
        return family(name, codec, lm, info=info)

    @property
    def frame_rate(self) -> float:
        return self.compression_model.frame_rate

    @property
    def sample_rate(self) -> int:
        return self.compression_model.sample_rate

    @property
    def audio_channels(self) -> int:
        return self.compression_model.channels

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the parts that this model makes; ("mix",) where it makes one."""
        return tuple(self.compression_model.stems)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of what this model listens to, besides a prompt."""
        return tuple(self.lm.condition_provider.conditioners)

    @property
    def extend_stride(self) -> float | None:
        """By how many seconds windows advance; always below ``max_duration`` (see ``stride_was_clamped``)."""
        if self._stride is None or self._stride < self.max_duration:
            return self._stride
        return 0.6 * self.max_duration  # the share that MusicGen's 18 s have of its 30 s

    @extend_stride.setter
    def extend_stride(self, seconds: float | None) -> None:
        if seconds is not None and not 0 < seconds < self.max_duration:
            raise ContractError(
                "extend_stride must be shorter than a window",
                field="extend_stride",
                value=seconds,
                allowed=f"more than 0 and less than {self.max_duration:g} s",
            )
        self._stride = seconds

    @property
    def stride_was_clamped(self) -> bool:
        """Whether the family's stride does not fit this model's window and a shorter one is used."""
        return self._stride is not None and self._stride >= self.max_duration

    @property
    def default_sampling(self) -> Sampling:
        """How this model's makers sample from it; AudioCraft's defaults where they do not say."""
        manifest = (None if self.checkpoint is None else self.checkpoint.manifest) or {}
        coef = manifest.get("cfg_coef") or self.default_coef or self.lm.cfg_coef
        return Sampling(**{"cfg_coef": float(coef), **(manifest.get("sampling") or {})})

    @property
    def window_frames(self) -> int:
        return max(2, round(self.max_duration * self.frame_rate))

    @property
    def stride_frames(self) -> int | None:
        if self.extend_stride is None:
            return None
        return min(max(1, round(self.extend_stride * self.frame_rate)), self.window_frames - 1)

    def set_generation_params(
        self,
        use_sampling: bool = KEEP,
        top_k: int = KEEP,
        top_p: float = KEEP,
        temperature: float = KEEP,
        duration: float = KEEP,
        cfg_coef: float | None = KEEP,
        cfg_coef_beta: float | None = KEEP,
        two_step_cfg: bool = KEEP,
        extend_stride: float | None = KEEP,
        *,
        seed: int | None = KEEP,
        negative_text: str | None = KEEP,
    ) -> None:
        """Set what is named; everything else stays. AudioCraft's parameters, then ours:

        ``seed``: where all randomness comes from (None: drawn from torch's global generator at each call).
        ``negative_text``: what guidance steers away from, in place of no text.
        """
        given = {
            "use_sampling": use_sampling,
            "top_k": top_k,
            "top_p": top_p,
            "temp": temperature,
            "cfg_coef": cfg_coef,
            "cfg_coef_beta": cfg_coef_beta,
            "two_step_cfg": two_step_cfg,
        }
        params = {**self.generation_params, **{k: v for k, v in given.items() if v is not KEEP}}
        sampling_of(params)
        if duration is not KEEP:
            check_duration(duration)
        if seed is not KEEP and seed is not None and not 0 <= int(seed) < 2**64:
            raise GenModelError("the seed is out of range", field="seed", value=seed, allowed="0…2^64-1")
        if negative_text is not KEEP:
            check_text(negative_text, "negative_text")
        if extend_stride is not KEEP:
            self.extend_stride = extend_stride
        self.generation_params = params
        self.duration = self.duration if duration is KEEP else float(duration)
        self.seed = self.seed if seed is KEEP else seed
        self.negative_text = self.negative_text if negative_text is KEEP else negative_text

    def set_custom_progress_callback(self, progress_callback: Progress | None = None) -> None:
        """``progress_callback(done, total)`` after each step of calls with ``progress=True``; may raise to
        cancel.
        """
        self._progress_callback = progress_callback

    def generate_unconditional(
        self, num_samples: int, progress: bool = False, return_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``num_samples`` rows of audio [B, C, T] from nothing."""
        if not isinstance(num_samples, int) or num_samples < 1:
            raise GenModelError("nothing is to be generated", field="num_samples", value=num_samples)
        return self._finish(self._attributes([None] * num_samples), None, progress, return_tokens)

    def generate(
        self, descriptions: Sequence[str | None], progress: bool = False, return_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Audio [B, C, T], one row per description (None: no description); with tokens [B, K, F] if asked."""
        return self._finish(self._attributes(descriptions), None, progress, return_tokens)

    def generate_continuation(
        self,
        prompt: Tensor,
        prompt_sample_rate: int,
        descriptions: Sequence[str | None] | None = None,
        progress: bool = False,
        return_tokens: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Go on from a prompt [B, C, T] or [C, T] of any rate and channel count.

        The result begins with the prompt as the codec tells it again; ``duration`` is the length of the
        whole. A model of stems takes its stems as channels, or a mix, which then stands before the seam.
        """
        wav = self._prompt(prompt)
        given = [None] * len(wav) if descriptions is None else list(descriptions)
        if len(given) != len(wav):
            raise ContractError(
                "there must be one description per prompt",
                field="descriptions",
                value=len(given),
                allowed=str(len(wav)),
            )
        rows = self._attributes(given)
        if self.stems != ("mix",) and wav.shape[1] != len(self.stems):
            from genmodel.mixes import continue_mixes

            with self._lock:
                seed = draw_seed() if self.seed is None else int(self.seed)
                check_duration(self.duration)
                made = continue_mixes(self, wav, prompt_sample_rate, given, seed, self._callback(progress))
            return made if return_tokens else made[0]
        return self._finish(rows, self._encode_prompt(wav, prompt_sample_rate), progress, return_tokens)

    @torch.no_grad()
    def generate_audio(self, gen_tokens: Tensor) -> Tensor:
        """Tokens [B, K, F] -> audio float32 [B, C, F*hop], neither clamped nor normalised."""
        if not isinstance(gen_tokens, Tensor) or gen_tokens.dim() != 3:
            raise ContractError("tokens are [batch, codebooks, frames]", field="gen_tokens")
        if not gen_tokens.shape[2]:
            return torch.zeros(len(gen_tokens), self.audio_channels, 0, device=gen_tokens.device)
        return self.compression_model.decode(gen_tokens, None)

    def stream(self, request: GenerationRequest) -> Iterator[AudioChunk]:
        """Final audio while it is made, chunk by chunk, in order for each variation and stem.

        With a prompt the last frames before the seam come first (the handle, at negative positions); then
        exactly ``request.frames`` frames per variation and stem. Raises GenModelError at once for what cannot
        be done.
        """
        from genmodel.engine.engine import Engine

        engine = Engine(self, slots=min(MAX_SLOTS, request.variations))
        engine.add(request)
        return engine.run()

    def info(self) -> dict[str, Any]:
        """What a listing or a manifest says about this model."""
        checkpoint = self.checkpoint
        return {
            "name": self.name,
            "sha256": checkpoint.sha256 if checkpoint is not None else None,
            "licence": checkpoint.licence if checkpoint is not None else "unknown",
            "parameters": self.lm.parameter_count,
            "precision": choose_precision(self.precision, self.device),
            "device": str(self.device),
            "stems": self.stems,
            "conditions": self.conditions,
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "channels": self.audio_channels,
            "max_duration": self.max_duration,
        }

    def _attributes(self, descriptions: Sequence[str | None]) -> list[ConditioningAttributes]:
        if isinstance(descriptions, str) or not descriptions:
            raise GenModelError(
                "descriptions are a list with one entry per row",
                field="descriptions",
                allowed="a list of texts or None",
            )
        for text in descriptions:
            check_text(text, "descriptions")
            if text and DESCRIPTION not in self.conditions:
                raise GenModelError("this model takes no text", field="descriptions", value=text)
        if DESCRIPTION not in self.conditions:
            return [ConditioningAttributes() for _ in descriptions]
        return [ConditioningAttributes(text={DESCRIPTION: text}) for text in descriptions]

    @staticmethod
    def _prompt(prompt: Tensor) -> Tensor:
        """[B, C, n] of a prompt that may be one row."""
        if not isinstance(prompt, Tensor) or prompt.dim() not in (2, 3):
            raise GenModelError(
                "a prompt is [channels, samples] or [batch, channels, samples]",
                code="E_AUDIO",
                field="prompt",
                value=tuple(prompt.shape) if isinstance(prompt, Tensor) else type(prompt).__name__,
            )
        return prompt if prompt.dim() == 3 else prompt[None]

    def _callback(self, progress: bool) -> Progress | None:
        return (self._progress_callback or tell_progress) if progress else None

    @torch.no_grad()
    def _encode_prompt(self, wav: Tensor, rate_hz: int) -> Tensor:
        """Codes [B, K, P] of a prompt."""
        channels = self.audio_channels if self.stems == ("mix",) else len(self.stems)
        wav = convert_audio(wav, rate_hz, self.sample_rate, channels)
        with self._lock:
            codes, scale = self.compression_model.encode(wav.to(self.device))
        if scale is not None:
            raise GenModelError(
                "codecs that scale their input are not supported", code="E_MODEL", field="codec"
            )
        return codes

    def _finish(
        self,
        attributes: list[ConditioningAttributes],
        prompt: Tensor | None,
        progress: bool,
        return_tokens: bool,
        attributes_of: Callable[[int, Window], ConditioningAttributes] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        with self._lock:
            tokens = self._generate_tokens(attributes, prompt, progress, attributes_of)
            audio = self.generate_audio(tokens)
        return (audio, tokens) if return_tokens else audio

    def _generate_tokens(
        self,
        attributes: list[ConditioningAttributes],
        prompt: Tensor | None,
        progress: bool,
        attributes_of: Callable[[int, Window], ConditioningAttributes] | None = None,
    ) -> Tensor:
        """Tokens int64 [B, K, round(duration * frame_rate)], the prompt at their head."""
        check_duration(self.duration)
        total = round(self.duration * self.frame_rate)
        if total == 0 and prompt is None:
            return torch.zeros(len(attributes), self.lm.n_q, 0, dtype=torch.int64, device=self.device)
        sessions = make_sessions(
            self.lm,
            prompt,
            attributes,
            total,
            self.window_frames,
            self.stride_frames,
            sampling_of(self.generation_params),
            draw_seed() if self.seed is None else int(self.seed),
            self.negative_text,
            attributes_of,
        )
        stepper = stepper_for(self.lm, min(MAX_SLOTS, len(sessions)), self.precision, self.capture)
        run_sessions(stepper, sessions, self._callback(progress))
        return torch.stack([session.tokens for session in sessions])
