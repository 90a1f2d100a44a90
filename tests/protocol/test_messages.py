"""Every field of every message: what it takes, what it refuses, and that the refusal names field and rule."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest

from protocol import messages as m
from protocol import vectors_write as v
from protocol.errors import SegueError
from protocol.fields import Record
from protocol.submit import Guidance, Sampling

SAMPLES: dict[type[Record], Record] = {}
for _sample in (
    *v.requests().values(),
    *v.replies().values(),
    *v.pushes().values(),
    m.TempoChange(at=0, bpm=120),
    m.TempoMap(changes=(m.TempoChange(at=0, bpm=120),)),
    m.Length(seconds=1),
    m.Chord(at=0, chord="C"),
    Sampling(),
    Guidance(),
    m.AudioFormat(rate=48000, channels=2, frames=4),
    m.Limits(),
    m.ModelInfo(name="pocket", state="loaded"),
    m.JobInfo(job="1", state="done"),
):
    SAMPLES.setdefault(type(_sample), _sample)

WRONG: dict[str, list[Any]] = {
    "int": [1.0, "1", True, -(2**53), 2**53, float("nan"), b"1", [1], {}],
    "float": ["1", True, float("nan"), float("inf"), -float("inf"), -1e12, 1e12, b"", [1.0]],
    "rational": [
        "1",
        "1/0",
        "a/b",
        "1.5/2",
        " 1/2",
        True,
        float("nan"),
        float("inf"),
        10**12,
        "-1/9999999999",
        b"1",
    ],
    "str": [1, True, b"text", ["a"], "x" * 100_000, "nul\0", "\ud800", {}],
    "bool": [0, 1, "true", "", [], 0.0],
    "bin": ["x" * 16, b"", b"x" * 15, b"x" * 17, 16, [0] * 16],
    "map": [1, "a", [1], {1: 2}, b""],
    "error": [1, "E_ARGUMENT", [1]],
    "list": ["abc", 1, b"abc", {"a": 1}, True],
    "record": [1, "a", [1], b""],
}


def wrong_values(kind: str) -> list[Any]:
    if kind.startswith("["):
        return WRONG["list"]
    return WRONG.get(kind, WRONG["record"])


FIELDS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in SAMPLES
    for name in cls.WIRE
    if name != "events"
]


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_a_wrong_value_is_refused_by_name(cls: type[Record], name: str) -> None:
    field = cls.WIRE[name]
    plain = SAMPLES[cls].to_map()
    for value in wrong_values(field.check.kind):
        try:
            field.check.run(field.key, value)
        except SegueError:
            pass
        else:
            if field.check.kind in ("int", "float", "rational", "str"):
                continue  # a number out of most ranges or a long text may be inside this one
            pytest.fail(f"{cls.__name__}.{name} takes {value!r}")
        with pytest.raises(SegueError) as caught:
            cls.from_map({**plain, field.key: value})
        error = caught.value
        assert error.code in ("E_ARGUMENT", "E_AUDIO", "E_HEADER")
        assert error.field is not None and error.field.startswith(field.key)
        assert error.allowed and error.message.endswith(".") and len(error.message) < 800
        assert "\0" not in error.message


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_absent_and_nil_are_the_default_or_refused(cls: type[Record], name: str) -> None:
    field = cls.WIRE[name]
    plain = SAMPLES[cls].to_map()
    without = {k: value for k, value in plain.items() if k != field.key}
    if field.required:
        for found in (without, {**without, field.key: None}):
            with pytest.raises(SegueError) as caught:
                cls.from_map(found)
            assert caught.value.field == field.key and "missing" in caught.value.message
        return
    try:
        read = cls.from_map(without)
    except SegueError as error:  # a rule between fields: length needs one of three, harmony a tempo map
        assert (cls, name) in {
            (m.Length, "seconds"),
            (m.Chord, "chord"),
            (m.Submit, "tempo_map"),
            (m.Submit, "length"),
        }, (  # fmt: skip
            error.message
        )
        return
    assert read.to_map() == cls.from_map({**without, field.key: None}).to_map()
    default = field.default if field.default is not dataclasses.MISSING else field.factory()
    assert getattr(read, name) == default


@pytest.mark.parametrize("cls", SAMPLES, ids=lambda cls: cls.__name__)
def test_messages_survive_the_way_there_and_back_and_cannot_be_changed(cls: type[Record]) -> None:
    sample = SAMPLES[cls]
    plain = sample.to_map()
    if cls is m.NextReply:
        return  # its events are put together by parse_reply: test_vectors
    again = cls.from_map({**plain, "a key of tomorrow": [1, 2]})
    assert again.to_map() == plain
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sample, next(iter(cls.FIELDS), "op"), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(sample, "op")
    assert repr(sample).startswith(cls.__name__ + "(")
    assert hash(again) == hash(cls.from_map(plain)) and again != object()


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"mode": "remix"}, "mode", "E_ARGUMENT"),
        ({"variations": 17}, "variations", "E_ARGUMENT"),
        ({"variations": 0}, "variations", "E_ARGUMENT"),
        ({"rate": 7999}, "rate", "E_ARGUMENT"),
        ({"rate": 384001}, "rate", "E_ARGUMENT"),
        ({"channels": 3}, "channels", "E_ARGUMENT"),
        ({"priority": "urgent"}, "priority", "E_ARGUMENT"),
        ({"level": "loud"}, "level", "E_ARGUMENT"),
        ({"seed": -1}, "seed", "E_ARGUMENT"),
        ({"seed": 2**53}, "seed", "E_ARGUMENT"),
        ({"text": "x" * 16385}, "text", "E_ARGUMENT"),
        ({"text": "ü" * 8193}, "text", "E_ARGUMENT"),
        ({"stems": []}, "stems", "E_ARGUMENT"),
        ({"stems": ["../x"]}, "stems[0]", "E_ARGUMENT"),
        ({"deadline_ms": 0}, "deadline_ms", "E_ARGUMENT"),
        ({"sampling": {"temperature": -0.1}}, "sampling.temperature", "E_ARGUMENT"),
        ({"sampling": {"top_p": 1.1}}, "sampling.top_p", "E_ARGUMENT"),
        ({"guidance": {"cfg_coef": float("nan")}}, "guidance.cfg_coef", "E_ARGUMENT"),
        ({"length": {}}, "length", "E_ARGUMENT"),
        ({"length": {"seconds": 0}}, "length.seconds", "E_ARGUMENT"),
        ({"length": {"frames": 0}}, "length.frames", "E_ARGUMENT"),
        ({"length": {"bars": "0/3"}}, "length.bars", "E_ARGUMENT"),
        ({"length": {"seconds": 1e-9}}, "length", "E_ARGUMENT"),
        ({"length": {"seconds": 3601}}, "length", "E_TOO_LONG"),
        ({"length": {"frames": 2**50}}, "length", "E_TOO_LONG"),
        ({"tempo_map": {"changes": []}}, "tempo_map.changes", "E_ARGUMENT"),
        ({"tempo_map": {"changes": [{"at": 1, "bpm": 120}]}}, "tempo_map.changes[0].at", "E_ARGUMENT"),
        ({"tempo_map": {"changes": [{"at": 0, "bpm": 0}]}}, "tempo_map.changes[0].bpm", "E_ARGUMENT"),
        (
            {"tempo_map": {"changes": [{"at": 0, "bpm": 120, "unit": 6}]}},
            "tempo_map.changes[0].unit",
            "E_ARGUMENT",
        ),
        (
            {"tempo_map": {"changes": [{"at": 0, "bpm": 120}, {"at": 0, "bpm": 90}]}},
            "tempo_map.changes[1].at",
            "E_ARGUMENT",
        ),
        ({"harmony": [{"at": 0, "chord": "C"}]}, "tempo_map", "E_ARGUMENT"),
        ({"harmony": [{"at": 0, "chord": "H"}]}, "harmony[0].chord", "E_ARGUMENT"),
        ({"harmony": [{"at": 0}]}, "harmony[0].chord", "E_ARGUMENT"),
        ({"harmony": [{"at": 0, "pitches": [12]}]}, "harmony[0].pitches[0]", "E_ARGUMENT"),
    ],
)
def test_submit_refuses(change: dict[str, Any], field: str, code: str) -> None:
    header = {
        "op": "submit",
        "id": 1,
        "key": bytes(16),
        "mode": "generate",
        "length": {"seconds": 1},
        **change,
    }
    with pytest.raises(SegueError) as caught:
        m.parse_request(header)
    assert (caught.value.field, caught.value.code) == (field, code), caught.value.message


def test_submit_pieces_of_one_sound_must_fit_together() -> None:
    def submit(*blocks: m.AudioBlock) -> m.Submit:
        given = m.Submit(key=bytes(16), mode="continue", length=m.Length(seconds=1)).with_audio(blocks)
        given.check_complete()
        return given

    def block(rate: int = 48000, frames: int = 4, **more: Any) -> m.AudioBlock:
        form = m.AudioFormat(rate=rate, channels=1, frames=frames, **{"role": "prompt", **more})
        return m.AudioBlock(form, bytes(4 * frames))

    whole = submit(block(), block(frames=2)).sound("prompt")
    assert whole is not None and whole.frames == 6
    context = submit(block(), block(role="context", track=0), block(role="context", track=1, rate=8000))
    assert context.tracks("context") == (0, 1) and context.tracks("following") == ()
    for wrong in (
        [block(), block(rate=44100)],
        [block(position=-6), block(frames=2, position=0)],
        [block(role="following")],
        [block(role=None)],
    ):
        with pytest.raises(SegueError) as caught:
            submit(*wrong)
        assert caught.value.code == "E_AUDIO"


def test_long_audio_is_cut_into_frames_that_fit_and_comes_back_whole() -> None:
    data = bytes(range(256)) * 40_000
    form = m.AudioFormat(rate=48000, channels=2, frames=len(data) // 6, format="s24le", role="prompt")
    block = m.AudioBlock(form, data[: form.total_bytes])
    given = m.Submit(key=bytes(16), mode="continue", length=m.Length(seconds=1)).with_audio([block])
    assert len(given.audio) == 3 and all(len(b.data) <= 4 << 20 for b in given.audio)
    whole = given.sound("prompt")
    assert whole is not None and bytes(whole.data) == bytes(block.data)


def test_the_same_job_has_the_same_digest_and_any_other_another() -> None:
    base = m.Submit(key=bytes(16), mode="generate", length=m.Length(seconds=1), text="a")
    assert base.digest() == dataclasses.replace(base, key=b"1" * 16).digest()
    others = [
        dataclasses.replace(base, text="b"),
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, length=m.Length(seconds=2)),
        base.with_audio([v.prompt()]),
        base.with_audio([m.AudioBlock(v.prompt().format, bytes(32))]),
        base.with_audio([v.track("following")]),
    ]
    assert len({base.digest(), *(o.digest() for o in others)}) == 7
    assert m.parse_request(base.to_header(5)).digest() == base.digest()  # type: ignore[attr-defined]


def test_requests_of_minor_0_keep_their_digest() -> None:
    """A key that a project has kept must find its job again after an update: what came later is silent where
    it has its default.
    """
    known = {  # as minor 0 made them
        "submit, the least there is": "ec5e85982bd6b9718e05fc544f72ba8dee1084a83c19b29ba6b9d5523afd083a",
        "submit, continue a prompt": "75e318c81aac14b90b6643ffe882cefc80be724aeb230aa5cd18ab81e7a9daca",
        "submit, everything": "0762477b218c99631e42ff59210f0177f4bbab2ffd7b53db65f4a44c8be7d023",
    }
    requests = v.requests()
    for name, digest in known.items():
        request = requests[name]
        assert isinstance(request, m.Submit) and request.digest().hex() == digest
        plain = dataclasses.replace(request, loop=False, start="edge", strength=0.5, tail_ms=None)
        assert plain.digest().hex() == digest
        for change in ({"strength": 0.25}, {"tail_ms": 80}):
            assert dataclasses.replace(request, **change).digest().hex() != digest


TEMPO = m.TempoMap(changes=(m.TempoChange(at=0, bpm=90, beats=3),), start="1/2")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"mode": "generate", "start": "bar"}, "tempo_map"),
        ({"mode": "fill", "start": "bar", "tempo_map": TEMPO}, "start"),
        ({"mode": "vary", "start": "bar", "tempo_map": TEMPO}, "start"),
        ({"mode": "fill", "loop": True}, "loop"),
        ({"mode": "vary", "strength": 1.01}, "strength"),
        ({"mode": "continue", "tail_ms": 1001}, "tail_ms"),
        ({"mode": "generate", "start": "beat"}, "start"),
        ({"mode": "continue", "length": None}, "length"),
    ],
)
def test_what_producers_ask_for_must_make_sense_together(given: dict[str, Any], field: str) -> None:
    with pytest.raises(SegueError) as caught:
        m.Submit(**{"key": bytes(16), "length": m.Length(seconds=1), **given})
    assert (caught.value.code, caught.value.field) == ("E_ARGUMENT", field)


@pytest.mark.parametrize("mode", ["continue", "accompany", "vary", "fill"])
def test_each_mode_says_what_audio_it_needs(mode: str) -> None:
    bare = m.Submit(key=bytes(16), mode=mode, length=m.Length(seconds=1))
    with pytest.raises(SegueError) as caught:
        bare.check_complete()
    assert (caught.value.code, caught.value.field) == ("E_AUDIO", "audio")
    needed = str(caught.value.allowed).split('"')[1]
    bare.with_audio([v.track(needed)]).check_complete()


def test_a_variation_is_as_long_as_its_source() -> None:
    form = m.AudioFormat(rate=44100, channels=1, frames=30001, format="s16le", role="source")
    vary = m.Submit(key=bytes(16), mode="vary").with_audio([m.AudioBlock(form, bytes(60002))])
    assert (vary.length_frames, vary.host_rate_hz, vary.host_channels) == (30001, 44100, 1)
    assert dataclasses.replace(vary, rate=48000).length_frames == round(30001 * 48000 / 44100)
    assert dataclasses.replace(vary, length=m.Length(seconds=1)).length_frames == 44100


def test_the_bar_line_is_found_exactly_and_the_length_counts_from_it() -> None:
    base = m.Submit(
        key=bytes(16), mode="generate", length=m.Length(bars=2), tempo_map=TEMPO, start="bar", tail_ms=80
    )
    assert base.lead_frames == round(Fraction(5, 2) * 60 / 90 * 48000) == 80000
    assert (base.length_frames, base.tail_frames) == (2 * 3 * 32000, 3840)
    on_it = dataclasses.replace(base, tempo_map=dataclasses.replace(TEMPO, start=6))
    assert on_it.lead_frames == 0
    fill = m.Submit(key=bytes(16), mode="fill", length=m.Length(frames=9))
    assert (fill.tail_frames, base.lead_frames - on_it.lead_frames) == (3840, 80000)


def test_a_retake_keeps_what_it_does_not_say() -> None:
    first = m.Submit(
        key=bytes(16), mode="generate", length=m.Length(seconds=1), text="a", sampling={"top_k": 9}
    ).to_map()  # fmt: skip
    change = {"text": None, "negative_text": "b", "sampling": {"temperature": 0.5}}
    made = m.Submit.from_map(m.Retake(job="1", key=bytes(16), change=change).changed(first))
    assert (made.text, made.negative_text) == (None, "b")
    assert (made.sampling.top_k, made.sampling.temperature) == (9, 0.5)
    with pytest.raises(SegueError) as caught:
        m.Retake(job="1", key=bytes(16), change={"mode": "vary"})
    assert caught.value.field == "change.mode"


def test_host_rate_and_channels_come_from_the_request_then_the_prompt() -> None:
    base = m.Submit(key=bytes(16), mode="generate", length=m.Length(seconds=0.5))
    assert (base.host_rate_hz, base.host_channels, base.length_frames) == (48000, 2, 24000)
    mono = m.AudioBlock(m.AudioFormat(rate=44100, channels=1, frames=1, role="prompt"), bytes(4))
    prompted = base.with_audio([mono])
    assert (prompted.host_rate_hz, prompted.host_channels, prompted.length_frames) == (44100, 1, 22050)
    asked = dataclasses.replace(prompted, rate=96000, channels=2)
    assert (asked.host_rate_hz, asked.host_channels, asked.length_frames) == (96000, 2, 48000)


def test_newer_events_are_counted_and_not_understood() -> None:
    found = m.parse_event({"event": "applause", "seq": 4, "loudness": "very"})
    assert isinstance(found, m.UnknownEvent) and (found.seq, found.kind) == (4, "applause")


def test_damaged_audio_is_never_handed_out() -> None:
    event = v.chunk()
    with pytest.raises(SegueError) as caught:
        event.with_data(bytes(16))
    assert caught.value.code == "E_TAKE_DAMAGED" and caught.value.retry == "same"
    with pytest.raises(SegueError):
        event.with_data(bytes(15))
    reply = m.NextReply(job="1", state="running", events=(event,), last=3)
    header = reply.to_header(1)
    assert (
        header["events"][0]["payload"] == 0
        and "payload"
        not in m.NextReply(
            job="1", state="running", events=(dataclasses.replace(event, block=None, payload=3),)
        ).to_header(1)["events"][0]
    )
    header["events"][0]["payload"] = 7
    with pytest.raises(SegueError) as caught:
        m.parse_reply(header, [b.data for b in reply.blocks])
    assert caught.value.code == "E_HEADER"


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"op": "ping"},
        {"op": "ping", "id": 1, "ok": 1},
        {"op": "ping", "id": 1, "ok": True},
        {"op": "next", "id": 1, "ok": True, "job": "1", "state": "running", "events": 5},
        {"op": "next", "id": 1, "ok": True, "job": "1", "state": "running", "events": [5]},
        {
            "op": "next",
            "id": 1,
            "ok": True,
            "job": "1",
            "state": "running",
            "events": [{"event": "audio", "seq": 1}],
        },
        {"op": "next", "id": 1, "ok": True, "job": "1", "state": "a b"},
        {"op": "metrics", "id": 1, "ok": True, "data": {"bytes": 1, "crc": 0}},
        {"op": "metrics", "id": 1, "ok": True, "data": 5},
        {"op": "ping", "id": 1, "ok": True, "boot": "b", "audio": 5},
    ],
)
def test_a_reply_that_makes_no_sense_is_a_header_error(header: dict[str, Any]) -> None:
    with pytest.raises(SegueError) as caught:
        m.parse_reply(header)
    assert caught.value.code == "E_HEADER"


def test_nobody_prints_audio_by_accident() -> None:
    block = m.AudioBlock(m.AudioFormat(rate=8000, channels=1, frames=100_000, role="prompt"), bytes(400_000))
    submit = m.Submit(key=bytes(16), mode="generate", length=m.Length(seconds=1)).with_audio([block])
    facts = {"job": "1", "total_bytes": 9, "crc": 0, "rate": 1, "channels": 1, "frames": 1}
    assert len(repr(submit)) < 600 and len(repr(m.FetchReply(data=bytes(9999), **facts))) < 300
