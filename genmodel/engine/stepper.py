"""The stepper: several sessions, one step of the network for all of them.

A session takes a slot; its streams (halves of guidance) are rows. Keys and values of past steps lie in caches
indexed by slot, those of cross-attention are computed once. ``begin`` runs everything known of a session's
window, slice by slice, and makes its first token; ``step`` makes the next token of every session that is
under way. No row's numbers depend on the other rows: products are by row (``kernels``), attention lengths are
rounded up per session and masked, noise is by position. Not thread-safe: one thread owns a stepper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genmodel.engine.beginning import Beginning
from genmodel.engine.conditions import Stream
from genmodel.engine.drawing import Draw
from genmodel.engine.kernels import MAX_STEP_ROWS, choose_precision
from genmodel.engine.network import network_for
from genmodel.engine.session import UNKNOWN, Session, SessionState
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel

MAX_SLOTS = MAX_STEP_ROWS // 4  # three streams at most; more at once gains no speed and much memory

_REPLAY_ROWS = 32  # half as long as 64 (25 ms), and no slower by the step; MAX_STEP_ROWS at most


@dataclass
class Slot:
    """What a session has aboard, for the window in the making."""

    session: Session
    streams: tuple[Stream, ...] = ()
    window: int = -1  # the window that the caches hold, -1 for none
    sequence: Tensor = field(default_factory=lambda: torch.empty(0))  # int64 [K, S]
    keys: Tensor = field(default_factory=lambda: torch.empty(0))  # int64 [K, S]
    near: Tensor | None = None  # int64 [K, S]: a source's tokens, which get a bonus
    added: tuple[Tensor | None, ...] = ()  # per stream [S, D]: what is added to the input of each step

    @property
    def ready(self) -> bool:
        return self.window == self.session.window and not self.session.done

    @property
    def under_way(self) -> bool:
        """Whether its next step is to be made."""
        return self.ready and not self.session.replaying

    def draw(self, step: int) -> Draw:
        """How the tokens of a step are drawn."""
        lean = self.session.lean
        if self.near is None or lean is None:
            return Draw(self.session.sampling, self.keys[:, step])
        return Draw(self.session.sampling, self.keys[:, step], self.near[:, step], lean.bonus)


class Stepper:
    """``slots`` sessions at most; ``precision`` of the layers as ``kernels.choose_precision``; ``slices``:
    prefills in slices, else each in one pass; ``native`` as ``network_for``.
    """

    def __init__(
        self,
        lm: LMModel,
        slots: int = 8,
        precision: str | None = None,
        packed: bool = True,
        slices: bool = True,
        native: bool = True,
    ) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise GenModelError(
                "that many takes at once are not run", field="slots", value=slots, allowed=f"1…{MAX_SLOTS}"
            )
        self.lm = lm
        self.device = lm.device
        self.network = network_for(lm, choose_precision(precision, self.device), packed, native)
        self.slots: list[Slot | None] = [None] * slots
        self.caches = self.network.caches()
        self.finite = torch.ones(slots, dtype=torch.bool, device=self.device)
        self.slices = slices
        self.partial: set[int] = set()  # slots whose caches a prefill has written to in part

    @property
    def kernels_version(self) -> str:
        """Of what multiplies where it is not torch, and of how steps run: equal where their bits are."""
        return self.network.kernels_version

    @property
    def free(self) -> int:
        return self.slots.count(None)

    def slot_of(self, session: Session) -> int:
        for number, slot in enumerate(self.slots):
            if slot is not None and slot.session is session:
                return number
        raise GenModelError("this session is not aboard")

    def admit(self, session: Session) -> int:
        """Give a session the first free slot. It is not under way before ``prefill``."""
        if None not in self.slots:
            raise GenModelError("all slots are taken", code="E_MEMORY", field="slots", value=len(self.slots))
        number = self.slots.index(None)
        self.slots[number] = Slot(session)
        self.finite[number] = True
        return number

    def release(self, session: Session) -> None:
        """Take a session off; its tokens are brought up to date first."""
        number = self.slot_of(session)
        self.sync(session)
        self.slots[number] = None
        if number in self.partial or not bool(self.finite[number]):
            # hidden places are multiplied by zero, and zero times NaN is NaN: the next owner must not meet
            # any
            self.caches.clear(number)
            self.partial.discard(number)
        self._give_back(number)

    def _give_back(self, number: int) -> None:
        """A slot's caches are no longer needed."""
        self.caches.release(number)

    def waiting(self) -> list[Session]:
        """Sessions aboard whose window has not begun here."""
        return [s.session for s in self.slots if s is not None and not s.ready and not s.session.done]

    def begin(self, sessions: Sequence[Session]) -> Beginning:
        """Begin (or resume) the window of sessions that so far are equal; the caller lets it advance."""
        return Beginning(self, sessions)

    def prefill(self, sessions: Sequence[Session]) -> None:
        """``begin``, all slices one after the other."""
        beginning = self.begin(sessions)
        while not beginning.advance():
            pass

    def reserve(self, slots: int, streams: int, prefix: int, steps: int, sources: list[int]) -> None:
        """Room for windows of ``steps`` steps after a prefix, in the first ``slots`` slots, and for sources
        of these lengths.
        """
        self.caches.reserve(slots, streams, prefix + steps)
        self.caches.reserve_cross(slots, sources)

    def seat(
        self,
        number: int,
        session: Session,
        streams: tuple[Stream, ...],
        sequence: Tensor,
        added: tuple[Tensor | None, ...],
    ) -> None:
        """Note what a session needs aboard for its window, whose caches are filled. sequence [K, S]."""
        keys, near = session.step_keys().to(self.device), session.near()
        near = None if near is None else near.to(self.device)
        self.slots[number] = Slot(session, streams, session.window, sequence.clone(), keys, near, added)

    @torch.no_grad()
    def step(self) -> list[Session]:
        """The next step of every session under way; returns those sessions."""
        numbers = [n for n, slot in enumerate(self.slots) if slot is not None and slot.under_way]
        if not numbers:
            return []
        aboard = [slot for n in numbers if (slot := self.slots[n]) is not None]
        past = [slot.session.step - 1 for slot in aboard]  # the step that is fed
        self.write(numbers, self._fed(numbers, aboard, past))
        return [slot.session for slot in aboard]

    @torch.no_grad()
    def replay(self, session: Session) -> bool:
        """Feed steps of a session that are known already, as many at once as fit, through the very kernels of
        ``step``: the caches get the bits that stepping would have left. Returns whether the network chooses
        the tokens that are known; False means that something is not as it was when they were made.

        Measured (pocket, float32, one thread): 1.5 ms a step, where making one takes 7.6 ms.
        """
        number = self.slot_of(session)
        slot = self.slots[number]
        if slot is None or not slot.ready:
            raise GenModelError("the session's window has not begun")
        most = max(1, _REPLAY_ROWS // len(slot.streams))
        count = min(most, session.known_steps - session.step)
        fed = range(session.step - 1, session.step - 1 + count)
        mixed = self._fed([number] * count, [slot] * count, fed)
        made = slice(session.step, session.step + count)
        draws = [slot.draw(step) for step in range(made.start, made.stop)]
        chosen, _ = self.network.choose(self.network.logits(mixed), draws)
        fresh = session.pattern().frame_at[:, made].to(self.device) >= session.at.known
        fresh &= slot.sequence[:, made] != self.lm.special_token_id  # a stem that is known to be nothing
        session.step += count
        return bool(((chosen.T == slot.sequence[:, made]) | ~fresh).all())

    def _fed(self, numbers: Sequence[int], aboard: Sequence[Slot], past: Sequence[int]) -> Tensor:
        """Run one step of each slot; what the heads take, [n, D]. A slot may come several times, with steps
        that follow each other.
        """
        tokens = torch.stack([s.sequence[:, p] for s, p in zip(aboard, past, strict=True)])
        group = self.caches.group(numbers, past)
        weights = [[s.weight for s in slot.streams] for slot in aboard]
        return self.network.feed(self.caches, group, tokens, self._added(aboard, past), weights)

    def _added(self, aboard: Sequence[Slot], past: Sequence[int]) -> Tensor | None:
        """What conditions add to the inputs of these steps [R, D]; None if nothing."""
        if all(bias is None for slot in aboard for bias in slot.added):
            return None
        nothing = torch.zeros(self.network.config.dim, device=self.device)
        return torch.stack(
            [
                nothing if bias is None else bias[step]
                for slot, step in zip(aboard, past, strict=True)
                for bias in slot.added
            ]
        )

    def write(self, numbers: Sequence[int], mixed: Tensor) -> None:
        """Choose the tokens of each session's present step and move on. mixed [n, D]."""
        aboard = [slot for n in numbers if (slot := self.slots[n]) is not None]
        logits = self.network.logits(mixed)
        chosen, finite = self.network.choose(logits, [slot.draw(slot.session.step) for slot in aboard])
        self.finite[torch.tensor(numbers, device=self.device)] &= finite
        for slot, tokens in zip(aboard, chosen, strict=True):
            session = slot.session
            column = slot.sequence[:, session.step]
            slot.sequence[:, session.step] = torch.where(column == UNKNOWN, tokens, column)
            session.step += 1
            if session.step == slot.sequence.shape[1]:
                session.store(slot.sequence.to(session.tokens.device))
                session.window += 1
                session.step = session.known_steps = 0

    def sync(self, session: Session) -> None:
        """Bring a session's tokens up to date."""
        slot = self.slots[self.slot_of(session)]
        if slot is not None and slot.ready:
            session.store(slot.sequence.to(session.tokens.device))

    def check_finite(self, session: Session) -> None:
        """GenModelError (E_NOT_FINITE) if any logit of this session was NaN or infinite. Waits for the
        device.
        """
        if not bool(self.finite[self.slot_of(session)]):
            raise GenModelError(
                "the model computed numbers that are not finite: its weights or this precision fail here",
                code="E_NOT_FINITE",
                field="precision",
                value=self.network.precision,
            )

    def snapshot(self, session: Session) -> SessionState:
        """The present moment of a session aboard."""
        self.sync(session)
        return session.snapshot()
