"""What a word on the command line may be: numbers within limits, bars, meters; and a parser that refuses in
one sentence.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from bridge_clients.cli.exits import USAGE


class Parser(argparse.ArgumentParser):
    """argparse, except that a refusal is one sentence and no wall of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse, but the sub-command refuses what it does not know, and points to its own help."""
        found, extras = super().parse_known_args(args, namespace)
        if extras and " " in self.prog:
            self.error(f"unknown word{'s' if len(extras) > 1 else ''}: {' '.join(extras)[:200]}")
        return found, extras

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message.rstrip('.')} (see `{self.prog} --help`).\n")
        raise SystemExit(USAGE)


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """A finite number within [low, high], or (low, high] with ``above``."""
    allowed = f"{'above ' if above else ''}{low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number (allowed: {allowed})") from None
        if not math.isfinite(value) or value < low or value > high or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: {allowed})")
        return value

    return parse


def exact(low: float, high: float) -> Callable[[str], Fraction]:
    """The same, kept exact: "120.1" is 1201/10, so that a thousand bars stay on the grid."""
    check = number(low, high)

    def parse(text: str) -> Fraction:
        check(text)
        return Fraction(text)

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number within [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number (allowed: {low} to {high})"
            ) from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: {low} to {high})")
        return value

    return parse


def bars(text: str) -> Fraction:
    """A number of bars: 4, 2.5 or 7/2."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bars (allowed: 4, 2.5 or 7/2)"
        ) from None
    if not 0 < value <= 10_000 or value.denominator > 10_000:
        raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: above 0 to 10000 bars)")
    return value


def meter(text: str) -> tuple[int, int]:
    """A meter, "6/8"."""
    beats, _, unit = text.partition("/")
    if not (beats.isdecimal() and unit.isdecimal() and len(text) <= 5):
        raise argparse.ArgumentTypeError(f"{text!r} is not a meter (allowed: 4/4, 3/4, 6/8, …)")
    value = int(beats), int(unit)
    if not 1 <= value[0] <= 64 or value[1] not in (1, 2, 4, 8, 16, 32, 64):
        raise argparse.ArgumentTypeError(f"{text} is not a meter (allowed: 1 to 64 beats of 1/1 to 1/64)")
    return value
