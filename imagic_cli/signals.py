"""SIGINT and SIGTERM: finish the step in hand, keep the progress, leave with the documented code."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from imagic_cli.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked for a stop; a loop looks at it between steps."""

    def __init__(self) -> None:
        self.number = 0

    def check(self, hint: str = "") -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number:
            raise Interrupted(self.number, hint)


class _Raise:
    """A handler that raises, and remembers: safetensors' Rust code turns any exception into one of its own."""

    number = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        raise Interrupted(number)


def raise_on_signals() -> None:
    """Outside loops a signal stops at once, through the exception, so that locks and temporary files are cleaned up."""
    handler = _Raise()
    for number in SIGNALS:
        signal.signal(number, handler)


def end_on_signals() -> None:
    """A command that is done has nothing to clean up: from here on a signal ends the process, and no destructor's."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def came() -> int:
    """The signal that was raised, even where a library swallowed the exception; 0 for none."""
    return max(getattr(signal.getsignal(number), "number", 0) for number in SIGNALS)


@contextlib.contextmanager
def continued() -> Iterator[None]:
    """Around several pieces of work: what is stopped goes on by the command that was typed, not by a stage's own."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(error.code - 128, "what is done is kept: the same command continues") from error


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """Inside: the first signal is only noted; a second one ends the process at once.

    Raises:
        Interrupted: at the end, if a signal came after the last look at it.
    """
    stop = Stop()
    stop.number = came()

    def note(number: int, _frame: FrameType | None) -> None:
        if stop.number:
            os._exit(128 + number)
        stop.number = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    stop.check()
