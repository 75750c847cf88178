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


def raise_on_signals() -> None:
    """Outside loops a signal stops at once, through the exception, so that locks and temporary files are cleaned up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in SIGNALS:
        signal.signal(number, stop)


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """Inside: the first signal is only noted; a second one ends the process at once."""
    stop = Stop()

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
