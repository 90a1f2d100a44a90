"""A window that is being begun: its prefill under way, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.engine.conditions import Stream
from genmodel.engine.prefilling import Slices, slice_rows
from genmodel.engine.session import Session
from genmodel.errors import GenModelError

if TYPE_CHECKING:
    from genmodel.engine.stepper import Stepper


class Beginning:
    """The window of ``sessions`` that so far are equal: same tokens, streams and step.

    The pass is run for the first; the others copy its caches. Then each makes its next step with its own
    noise. Between two calls of ``advance`` the stepper may do anything else, but sessions that are no longer
    where they were end it with a GenModelError.
    """

    def __init__(self, stepper: Stepper, sessions: Sequence[Session]) -> None:
        self.stepper, self.sessions = stepper, tuple(sessions)
        self.numbers = [stepper.slot_of(session) for session in sessions]
        self._moment = [(session.window, session.step) for session in sessions]
        self._slices: Slices | None = None
        self._streams: tuple[Stream, ...] = ()
        self._added: tuple[Tensor | None, ...] = ()
        self._sequence = torch.empty(0)
        self._start = 0
        self._room: tuple[int, int, int, int, list[int]] = (0, 0, 0, 0, [])

    @property
    def holds(self) -> bool:
        """Whether all sessions are still where they were."""
        slots = self.stepper.slots
        aboard = all(
            slot is not None and slot.session is session
            for slot, session in zip((slots[n] for n in self.numbers), self.sessions, strict=True)
        )
        return aboard and self._moment == [(session.window, session.step) for session in self.sessions]

    @torch.no_grad()
    def advance(self) -> bool:
        """Run the next slice; True when the window has begun. After an error it cannot go on."""
        if not self.holds:
            raise GenModelError("a session left while its window was being begun")
        if self._slices is None:
            self._slices = self._opened()
        try:
            next(self._slices)
        except StopIteration as end:
            self._complete(end.value)
            return True
        return False

    def _opened(self) -> Slices:
        """Room in the caches, and the inputs of the pass."""
        stepper, first = self.stepper, self.sessions[0]
        net, caches, number = stepper.network, stepper.caches, self.numbers[0]
        self._streams = streams = first.streams()
        self._start = first.step or first.first_step()
        self._sequence = first.sequence(stepper.lm.special_token_id).to(stepper.device)
        steps = self._sequence.shape[1]
        sources = [0 if s.cross is None else len(s.cross) for s in streams]
        prefix = [stream.prefix_steps for stream in streams]
        heard = [length for length in sources if length]
        self._room = (max(self.numbers) + 1, len(streams), max(prefix), steps, heard)
        stepper.reserve(*self._room)
        self._added = tuple(stream.added(first.at.start, steps) for stream in streams)
        caches.set_lengths(number, prefix, sources)
        embedded = net.embed(self._sequence[:, : self._start].T)
        inputs = []
        for stream, bias in zip(streams, self._added, strict=True):
            begin = stream.prefix_steps
            code = net.positions(begin + self._start)
            x = embedded + code[begin:]
            if bias is not None:  # after the code, as in a step: the bits of the sum depend on the order
                x = x + bias[: self._start]
            if stream.prefix is not None:
                x = torch.cat([stream.prefix.to(x) + code[:begin], x])
            inputs.append(x)
        stepper.partial.add(number)
        rows = slice_rows(stepper.device) if stepper.slices else None
        return net.prefill(caches, number, streams, inputs, rows)

    def _complete(self, mixed: Tensor) -> None:
        stepper = self.stepper
        stepper.reserve(*self._room)  # the first slot's was kept; the others' may have been given back
        for number, session in zip(self.numbers, self.sessions, strict=True):
            if number != self.numbers[0]:
                stepper.caches.copy(self.numbers[0], number)
            stepper.seat(number, session, self._streams, self._sequence, self._added)
            session.step = self._start
        stepper.write(self.numbers, mixed.expand(len(self.numbers), -1))
        stepper.partial.discard(self.numbers[0])
