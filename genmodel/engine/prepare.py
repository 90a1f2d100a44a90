"""From a request to what the engine runs: prompt to codes, conditions to streams, the take's frames laid out.

Everything that depends on the whole request happens here, once; refusals too. The take's frames are the
prompt's used ones, then the requested new ones; the seam lies between. The codec made the last frames of a
prompt from padding, so they are dropped and made again: they are the handle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.audio import convert_audio
from genmodel.codec import CodecStreamState
from genmodel.engine.conditions import Stream, encode_streams
from genmodel.engine.leaning import Lean, lean_of
from genmodel.engine.session import UNKNOWN, Window, plan_windows
from genmodel.errors import GenModelError
from genmodel.lm.conditioners.frames import transport_features
from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoMap

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

HANDLE_FRAMES = 4
MIN_PROMPT_FRAMES = HANDLE_FRAMES + 1
SILENCE_DB = -70.0
MAX_GAIN_DB = 40.0
SUBMIX_DB = -2.0
"""Some of a mix's tracks against the whole of it: pocket's stems are at -4 to -5 dB, two of three at about
-2."""
_MARGIN_S = 0.25  # more than the resampling filter's reach


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request in the model's terms.

    ``known`` int64 [K, P]: tokens before the handle. ``frames``: the whole take; the first new sample is that
    of frame ``seam``. ``gain``: what the prompt was multiplied by, and takes are divided by. ``warm``: the
    decoder's state after the known frames, None where it begins with them. ``nothing``: codebooks of stems
    that are given and not played. ``lean``: the source to stay near.
    """

    known: Tensor
    frames: int
    seam: int
    gain: float
    windows: tuple[Window, ...]
    streams: tuple[Stream, ...]
    sampling: Sampling
    warm: CodecStreamState | None
    stems: tuple[str, ...]
    nothing: tuple[int, ...] = ()
    lean: Lean | None = None


def prepare(model: BaseGenModel, request: GenerationRequest) -> Prepared:
    """Raises GenModelError for what this model cannot do."""
    stems = _chosen_stems(model, request)
    _refuse_foreign_conditions(model, request)
    stride = model.stride_frames or max(1, 3 * model.window_frames // 5)
    native = model.stems != ("mix",)
    codec = model.compression_model
    wav, gain, known = None, 1.0, torch.zeros(model.lm.n_q, 0, dtype=torch.int64)
    if request.prompt is None and (whole := request.source or request.following) is not None:
        gain = _levelled(model, _converted(model, whole, 1))[1]
    elif request.prompt is None and request.context is not None:
        # nothing else says how loud to be: the tracks that are played to do
        gain = _levelled(model, _converted(model, request.context, 1), SUBMIX_DB)[1]
    if request.prompt is not None:
        wav = _prompt_audio(model, request.prompt, request.frames, stride)
        wav, gain = _levelled(model, wav)
        if native:  # a mix goes in as context; what its stems were is not known
            frames = wav.shape[1] // codec.hop_samples - HANDLE_FRAMES
            known = torch.full((model.lm.n_q, frames), model.lm.special_token_id, dtype=torch.int64)
        else:
            known = codec.encode(wav[None].to(model.device))[0][0, :, :-HANDLE_FRAMES]
    seam = known.shape[1] + (HANDLE_FRAMES if wav is not None else 0)
    frames = seam + request.frames
    windows = plan_windows(known.shape[1], frames, model.window_frames, stride)
    attributes = _attributes(model, request, wav, seam, frames, gain)
    sampling = request.sampling or model.default_sampling
    if sampling.cfg_coef is None:
        sampling = replace(sampling, cfg_coef=model.default_sampling.cfg_coef)
    streams = encode_streams(model.lm, attributes, sampling, request.negative_text, frames)
    warm = None
    if known.shape[1] and not native:
        stream = codec.stream(1)
        stream.push(known[None])
        warm = stream.snapshot()
    lean = None
    if request.source is not None:
        lean = lean_of(model, request.source, request.strength, gain, seam, frames)
    return Prepared(
        known, frames, seam, gain, windows, streams, sampling, warm, stems, _nothing(model, request), lean
    )


def _nothing(model: BaseGenModel, request: GenerationRequest) -> tuple[int, ...]:
    """The codebooks of the stems that are given: codebook k of stem s is row k·S + s."""
    if model.stems == ("mix",):
        return ()
    count = len(model.stems)
    return tuple(row for row in range(model.lm.n_q) if model.stems[row % count] in request.given)


def _chosen_stems(model: BaseGenModel, request: GenerationRequest) -> tuple[str, ...]:
    asked = model.stems if request.stems is None else request.stems
    wanted = [name for name in asked if name not in request.given]
    unknown = [name for name in (*wanted, *request.given) if name not in model.stems]
    if unknown or not wanted:
        raise GenModelError(
            "this model does not make that stem" if unknown else "no stem is asked for",
            field="stems",
            value=unknown[0] if unknown else None,
            allowed=", ".join(model.stems),
        )
    return tuple(name for name in model.stems if name in wanted)


def _refuse_foreign_conditions(model: BaseGenModel, request: GenerationRequest) -> None:
    given = {
        "description": request.text or request.negative_text,
        "harmony": request.harmony,
        "context": request.context if request.context is not None else request.following,
    }
    for name, value in given.items():
        if value is not None and value != "" and name not in model.conditions:
            raise GenModelError(
                f"this model does not listen to {'text' if name == 'description' else name}",
                field="text" if name == "description" else name,
                allowed=", ".join(model.conditions) or "a prompt only",
            )


def _converted(model: BaseGenModel, clip: AudioClip, channels: int, last_s: float | None = None) -> Tensor:
    """A clip (its last ``last_s`` seconds) at the model's rate, float32 [channels, n]."""
    samples = clip.samples
    if last_s is not None:
        samples = samples[:, -max(1, int((last_s + _MARGIN_S) * clip.rate_hz)) :]
    return convert_audio(samples, clip.rate_hz, model.sample_rate, channels)


def _prompt_audio(model: BaseGenModel, clip: AudioClip, new_frames: int, stride: int) -> Tensor:
    """The prompt's last whole frames that fit beside what is new, float32 [C, P*hop]; cut from the left."""
    hop = model.compression_model.hop_samples
    window = model.window_frames
    # as much as a later window would carry over, or more where the take is short
    most = HANDLE_FRAMES + max(window - stride, window - new_frames - HANDLE_FRAMES)
    channels = 1 if model.stems != ("mix",) else model.audio_channels
    if clip.samples.shape[1] * model.sample_rate < MIN_PROMPT_FRAMES * hop * clip.rate_hz:
        raise GenModelError(
            "the prompt is too short to go on from",
            code="E_AUDIO",
            field="prompt",
            value=f"{clip.samples.shape[1]} samples",
            allowed=f"at least {MIN_PROMPT_FRAMES * hop / model.sample_rate * 1000:g} ms",
        )
    wav = _converted(model, clip, channels, most * hop / model.sample_rate)
    frames = min(wav.shape[1] // hop, most)
    step = model.compression_model.frames_per_step
    frames -= (frames - HANDLE_FRAMES) % step  # stereo interleaved in time needs whole pairs
    return wav[:, wav.shape[1] - frames * hop :]


def _levelled(model: BaseGenModel, wav: Tensor, below_db: float = 0.0) -> tuple[Tensor, float]:
    """Audio at the level that the model was trained on (or so far from it), and the gain; silence stays."""
    manifest = model.checkpoint.manifest if model.checkpoint is not None else None
    target = (manifest or {}).get("prompt_level_db")
    power = float(wav.double().square().mean())
    if target is None or power <= 10 ** (SILENCE_DB / 10):
        return wav, 1.0
    db = float(target) + below_db - 10 * torch.log10(torch.tensor(power)).item()
    gain = 10 ** (max(-MAX_GAIN_DB, min(MAX_GAIN_DB, db)) / 20)
    return wav * gain, gain


def _attributes(
    model: BaseGenModel, request: GenerationRequest, wav: Tensor | None, seam: int, frames: int, gain: float
) -> ConditioningAttributes:
    """The conditions of the take, per-frame ones in absolute frames."""
    given: dict[str, Tensor | None] = {}
    if "transport" in model.conditions and request.tempo_map is not None:
        hop = Fraction(model.compression_model.hop_samples, model.sample_rate)
        bar, beat, four = request.tempo_map.phases([(frame - seam) * hop for frame in range(frames)])
        given["transport"] = transport_features(bar, beat, four)
    if "harmony" in model.conditions:
        given["harmony"] = _harmony(model, request, wav, seam, frames, gain)
    if "context" in model.conditions:
        given["context"] = _context(model, request, wav, seam, frames, gain)
    text = {"description": request.text} if "description" in model.conditions else {}
    return ConditioningAttributes(text=text, frames={k: v for k, v in given.items() if v is not None})


def _harmony(
    model: BaseGenModel, request: GenerationRequest, wav: Tensor | None, seam: int, frames: int, gain: float
) -> Tensor | None:
    """Chroma [frames, 12]: the prompt's own, then the request's; without one that of the other tracks where
    they sound, and the prompt's again by whole bars where they do not.
    """
    from genmodel.pocket.chroma import chroma, repeat_chroma

    before = torch.zeros(0, 12) if wav is None else chroma(wav.mean(0).cpu(), model.sample_rate)[:seam]
    if request.harmony is not None:
        asked = request.harmony.float().clamp_min(0)[: frames - seam]
        asked = asked / asked.amax(1, keepdim=True).clamp_min(1e-9)
        held = asked[-1:].expand(frames - seam - len(asked), -1)
        return torch.cat([before, asked, held])
    tracks = _tracks(model, request, frames - seam, gain)
    heard = torch.zeros(0, 12) if tracks is None else chroma(tracks.cpu(), model.sample_rate)
    heard = heard[: frames - seam]
    if wav is None and not bool(heard.any()):
        return None
    period = (
        None if request.tempo_map is None else bar_period_frames(request.tempo_map, seam, model.frame_rate)
    )
    after = repeat_chroma(before, frames - seam, period)
    sounding = heard.any(1).nonzero()[:, 0]
    after[sounding] = heard[sounding]
    return torch.cat([before, after])


def _tracks(model: BaseGenModel, request: GenerationRequest, frames: int, gain: float) -> Tensor | None:
    """What sounds besides from the seam on, the source of a variation included: mono at the model's level, at
    most ``frames`` frames; else None.

    With its source in the ear a variation keeps its level and its groove (pocket, strength 0.5: 0.1 dB below
    the source instead of 4.8, onsets correlate by 0.76 instead of 0.62).
    """
    room = frames * model.compression_model.hop_samples
    found: list[Tensor] = []
    if request.context is not None:
        begin = 0
        if request.prompt is not None:
            clip = request.prompt
            begin = round(Fraction(clip.samples.shape[1], clip.rate_hz) * model.sample_rate)
        found.append(_converted(model, request.context, 1)[0] * gain)
        found[0] = found[0][begin : begin + room]
    if request.source is not None:
        found.append(_converted(model, request.source, 1)[0, :room] * gain)
    if not found:
        return None
    mixed = torch.zeros(max(map(len, found)))
    for own in found:
        mixed[: len(own)] += own
    return mixed


def bar_period_frames(tempo: TempoMap, prompt_frames: int, frame_rate: float) -> float | None:
    """Length of the largest of 4, 2, 1 whole bars before the seam that fits into the prompt, in frames."""
    seam = Fraction(tempo.start_beats)
    for bars in (4, 2, 1):
        start = seam - bars * tempo.change_at(seam).bar_quarters
        length = float(-tempo.seconds(start) * Fraction(frame_rate))
        if length <= prompt_frames:
            return length
    return None


def _context(
    model: BaseGenModel, request: GenerationRequest, wav: Tensor | None, seam: int, frames: int, gain: float
) -> Tensor | None:
    """Codes of what is heard besides, int64 [k, frames + look-ahead], the special token where there is
    nothing.

    Up to the handle that is the prompt, for a model whose stems it cannot be split into; from the seam on the
    request's context, where there is one, as far beyond the take as the model looks ahead. What follows a gap
    that is to be filled comes the same way: silence, then sound.
    """
    beyond: int = model.lm.condition_provider.conditioners["context"].look_ahead_frames  # type: ignore[assignment]
    core = model.compression_model.core
    native = model.stems != ("mix",)
    heard = wav if native else None
    after = _tracks(model, request, frames - seam + beyond + HANDLE_FRAMES, gain)
    follows = _following(model, request, frames - seam + beyond, gain)
    if heard is None and after is None and follows is None:
        return None
    codes = torch.full((core.num_codebooks, frames + beyond), core.cardinality, dtype=torch.int64)
    parts = [part for part in (None if heard is None else heard.mean(0), after) if part is not None]
    first = 0 if heard is not None else seam
    made = codes[:, :0]
    if parts and sum(map(len, parts)):
        made = core.encode(torch.cat(parts)[None, None].to(model.device))[0][0].cpu()
        made = made[:, : frames + beyond - first]
    if after is None or not len(after):
        # beyond the prompt there is nothing: its last frames were made from padding
        made = made[:, :-HANDLE_FRAMES]
    codes[:, first : first + made.shape[1]] = made
    if follows is not None:
        begin, wav_after = follows
        if after is not None:
            known = after[begin * model.compression_model.hop_samples :][: len(wav_after)]
            wav_after[: len(known)] += known
        made = core.encode(wav_after[None, None].to(model.device))[0][0].cpu()
        heard_from = max(begin, request.heard_from)
        made = made[:, heard_from - begin : frames + beyond - seam - begin]
        codes[:, seam + heard_from : seam + heard_from + made.shape[1]] = made
    if after is not None:
        # silence before the tracks come in is a gap to fill: nothing, rather than the codes of silence
        gap = _leading_silence(after) // model.compression_model.hop_samples - HANDLE_FRAMES
        if gap > 0:
            codes[:, max(0, seam - HANDLE_FRAMES) : seam + gap] = core.cardinality
    return codes


def _following(
    model: BaseGenModel, request: GenerationRequest, frames: int, gain: float
) -> tuple[int, Tensor] | None:
    """What comes after a gap, on the take's grid: its first whole frame counted from the seam, and its audio
    from there on, mono at the model's level, before frame ``frames``; None where there is none.
    """
    if request.following is None:
        return None
    hop = model.compression_model.hop_samples
    own = _converted(model, request.following, 1)[0] * gain
    at = round(request.following_s * model.sample_rate)
    begin = -(-at // hop)
    own = own[begin * hop - at : max(0, frames * hop - at)]
    return (begin, own.clone()) if len(own) >= hop else None


def _leading_silence(wav: Tensor) -> int:
    """How many samples of [n] are exactly zero before the first that is not; all of them for silence."""
    sounding = wav.nonzero()[:1, 0]
    return int(sounding[0]) if len(sounding) else wav.shape[0]


def empty_tokens(prepared: Prepared, model: BaseGenModel) -> Tensor:
    """int64 [K, frames]: the known tokens, UNKNOWN after them."""
    tokens = torch.full((model.lm.n_q, prepared.frames), UNKNOWN, dtype=torch.int64, device=model.device)
    tokens[:, : prepared.known.shape[1]] = prepared.known.to(model.device)
    tokens[list(prepared.nothing)] = model.lm.special_token_id
    return tokens
