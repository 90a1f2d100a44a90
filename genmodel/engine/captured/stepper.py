"""The stepper whose steps run on the device alone: what the host knows of a session it knows by counting.

Tokens come to the host when a chunk is due, or a window ends. Buckets: of lanes (1, 2, 4, 8, 16 slots from
the first on) and of places that attention runs over. A step's bits do not depend on its buckets (see
``attention`` and ``kernels``), so neither does a take on its company.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmodel.engine.caches import STEP_BUCKET
from genmodel.engine.captured.frame import FrameStep
from genmodel.engine.captured.graphs import Graphs
from genmodel.engine.captured.tables import Tables
from genmodel.engine.conditions import Stream
from genmodel.engine.kernels import choose_precision
from genmodel.engine.session import UNKNOWN, Session
from genmodel.engine.stepper import MAX_SLOTS, Slot, Stepper
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel

LANES = (1, 2, 4, 8, MAX_SLOTS)
_SPAN = 256  # places: some six captures over a window of 30 s, each reading at most 255 places too many
_FIRST_SPANS = (64, 128)
_REPLAY_STEPS = 16  # at once: the time of a slice of a prefill, about


def lanes_for(slots: int) -> int:
    """The smallest bucket with so many slots."""
    return next(lanes for lanes in LANES if lanes >= slots)


def span_for(places: int) -> int:
    """The smallest span with so many places."""
    return next((span for span in _FIRST_SPANS if span >= places), -(-places // _SPAN) * _SPAN)


class CapturedStepper(Stepper):
    """``capture``: whether steps are captured; None means where the device can. ``apart``: as for
    ``FrameStep``.
    """

    def __init__(
        self,
        lm: LMModel,
        slots: int = 8,
        precision: str | None = None,
        packed: bool = True,
        slices: bool = True,
        capture: bool | None = None,
        apart: bool | None = None,
    ) -> None:
        super().__init__(lm, slots, precision, packed, slices, native=False)
        self.tables = Tables(self.network, lanes_for(slots))
        self.finite = self.tables.finite
        self.graphs = Graphs(self.device, self.tables.active, capture)
        self._apart = apart
        self._active: list[int] = []
        self._layout = (0, 0)  # of the tensors that the steps there are work on

    @property
    def kernels_version(self) -> str:
        return f"{super().kernels_version} captured 1".strip()

    def reserve(self, slots: int, streams: int, prefix: int, steps: int, sources: list[int]) -> None:
        aboard = [number + 1 for number, slot in enumerate(self.slots) if slot is not None]
        lanes = lanes_for(max([slots, *aboard]))
        # the caches are as wide as the tables, which never shrink: a take without guidance after one with it
        streams = max(streams, self.tables.prefix.shape[1])
        sources = sources + [1] * (self.tables.hears.shape[1] - len(sources))
        # one bucket more than is attended to: rows that rest write to its last place
        self.caches.reserve(lanes, streams, span_for(prefix + steps) + STEP_BUCKET)
        self.caches.reserve_cross(lanes, sources)

    def _give_back(self, number: int) -> None:
        # the last one to leave keeps its caches: graphs are good as long as nothing moves, and the next one
        # needs them
        if any(slot is not None for slot in self.slots):
            super()._give_back(number)

    def seat(
        self,
        number: int,
        session: Session,
        streams: tuple[Stream, ...],
        sequence: Tensor,
        added: tuple[Tensor | None, ...],
    ) -> None:
        near, lean = session.near(), session.lean
        heard = sum(stream.cross is not None for stream in streams)
        some = any(bias is not None for bias in added)
        self.tables.grow(span_for(sequence.shape[1]), len(streams), heard, near=near is not None, added=some)
        start = session.step or session.first_step()
        self.tables.load(
            number,
            streams,
            session.sampling,
            start,
            sequence.masked_fill(self._made_again(session, sequence, start), UNKNOWN),
            session.step_keys().to(self.device),
            None if near is None else near.to(self.device),
            0.0 if lean is None else lean.bonus,
            added,
        )
        self.slots[number] = Slot(session, streams, session.window, sequence.clone())
        for other, slot in enumerate(self.slots):
            if slot is None:
                self.caches.release(other)

    def _made_again(self, session: Session, sequence: Tensor, start: int) -> Tensor:
        """bool [K, S]: cells that are known because an earlier attempt made them. They are made once more, so
        that the caches get the same bits, and must come out equal.
        """
        fresh = session.pattern().frame_at.to(self.device) >= session.at.known
        fresh &= sequence != self.lm.special_token_id  # a stem that is known to be nothing
        fresh[:, : start + 1] = False  # a prefill makes the first, through other kernels
        fresh[:, max(start, session.known_steps) :] = False
        return fresh

    @torch.no_grad()
    def step(self) -> list[Session]:
        numbers = [n for n, slot in enumerate(self.slots) if slot is not None and slot.under_way]
        sessions = [slot.session for n in numbers if (slot := self.slots[n]) is not None]
        if numbers:
            self._run(numbers)
        return sessions

    @torch.no_grad()
    def replay(self, session: Session) -> bool:
        """Make some known steps of a session once more; returns whether they came out as they are known."""
        number = self.slot_of(session)
        slot = self.slots[number]
        if slot is None or not slot.ready:
            raise GenModelError("the session's window has not begun")
        start = session.step
        stop = min(start + _REPLAY_STEPS, session.known_steps)
        for _ in range(start, stop):
            self._run([number])
        made = self.tables.sequence[number, :, start:stop]
        return bool((made == slot.sequence[:, start:stop]).all())

    def _run(self, numbers: Sequence[int]) -> None:
        """One step of these slots."""
        key = self._key(numbers)
        self._frame(key, numbers)
        self.graphs.run(key)
        self._moved_on(numbers)

    @torch.no_grad()
    def write(self, numbers: Sequence[int], mixed: Tensor) -> None:
        """As the base class: the first tokens of a window, whose last hidden states a prefill left."""
        key = self._key(numbers)
        frame = self._frame(key, numbers)
        whole = mixed.new_zeros(key[0], mixed.shape[1])
        whole[list(numbers)] = mixed
        frame.write(whole)
        self._moved_on(numbers)

    def _key(self, numbers: Sequence[int]) -> tuple[int, int, bool]:
        """The buckets of a step of these slots: lanes, span, whether any draws with top-p."""
        aboard = [slot for n in numbers if (slot := self.slots[n]) is not None]
        places = max(s.session.step + stream.prefix_steps for s in aboard for stream in s.streams)
        top_p = any(slot.session.sampling.top_p > 0 for slot in aboard)
        return lanes_for(max(numbers) + 1), span_for(places), top_p

    def _frame(self, key: tuple[int, int, bool], numbers: Sequence[int]) -> FrameStep:
        """The step of a key, with the lanes of these slots under way."""
        layout = (self.tables.moves, self.caches.moves)
        if layout != self._layout:
            self.graphs.clear()
            self._layout = layout
        if list(numbers) != self._active:
            self._active = list(numbers)
            mask = torch.zeros(self.tables.lanes, dtype=torch.bool)
            mask[self._active] = True
            self.tables.active.copy_(mask)
        lanes, span, top_p = key

        def made() -> FrameStep:
            return FrameStep(
                self.network, self.caches, self.tables, lanes, span, top_p=top_p, apart=self._apart
            )

        return self.graphs.step(key, made)

    def _moved_on(self, numbers: Sequence[int]) -> None:
        """Count what the device has done."""
        for number in numbers:
            slot = self.slots[number]
            if slot is None:
                continue
            session = slot.session
            session.step += 1
            if session.step == slot.sequence.shape[1]:
                self._fetch(number, slot)
                session.window += 1
                session.step = session.known_steps = 0

    def _fetch(self, number: int, slot: Slot) -> None:
        """Tokens to where the session keeps its own."""
        made = self.tables.sequence[number, :, : slot.sequence.shape[1]]
        slot.session.store(made.to(slot.session.tokens.device))

    def sync(self, session: Session) -> None:
        number = self.slot_of(session)
        slot = self.slots[number]
        if slot is not None and slot.under_way:  # what is made once more is known already
            self._fetch(number, slot)


def stepper_for(
    lm: LMModel, slots: int = 8, precision: str | None = None, capture: str = "auto", slices: bool = True
) -> Stepper:
    """The stepper for a device. ``capture``: "on" or "off"; "auto" means on CUDA. Where nothing can be
    captured "on" runs the same code as it is written; int8 has a step of its own, in the native kernels.

    Raises GenModelError for another word.
    """
    if capture not in ("auto", "on", "off"):
        raise GenModelError(
            "this is no way to capture", field="engine.capture", value=capture, allowed="auto, on, off"
        )
    wanted = capture == "on" or (capture == "auto" and lm.device.type == "cuda")
    if wanted and choose_precision(precision, lm.device) != "int8":
        return CapturedStepper(lm, slots, precision, slices=slices)
    return Stepper(lm, slots, precision, slices=slices)
