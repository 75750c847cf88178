"""Every failure a user can meet: one class tree, an exit code each, and a hint of what to do next."""

from __future__ import annotations


class ImagicError(Exception):
    """A failure that is told in one line.

    Args:
        message: what is wrong.
        hint: what to type or change next; printed behind the message.
    """

    code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class UsageError(ImagicError):
    """A flag or argument that cannot be meant (exit code 2)."""

    code = 2


class InputError(ImagicError):
    """A photograph or text that cannot be used (exit code 3)."""

    code = 3


class ArtifactError(ImagicError):
    """An artifact that is missing, corrupt, stale, or made by something else (exit code 4)."""

    code = 4


class LockedError(ImagicError):
    """Another process works in the run directory (exit code 5)."""

    code = 5


class DiskError(ImagicError):
    """The disk refused a read or a write (exit code 6)."""

    code = 6


class NumberError(ImagicError):
    """A loss, gradient or weight stopped being a finite number (exit code 7)."""

    code = 7


class MemoryShortError(ImagicError):
    """The device or the machine ran out of memory (exit code 8)."""

    code = 8


class ModelError(ImagicError):
    """A model that is refused or cannot be had (exit code 9)."""

    code = 9


class SomeFailedError(ImagicError):
    """Some of many edits failed.

    Args:
        code: the exit code of the first of them.
        message: what is wrong with it.
        hint: where the others are.
    """

    def __init__(self, code: int, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code


class Interrupted(BaseException):
    """A signal asked for a stop (exit code 128 + the signal's number: 130 SIGINT, 143 SIGTERM).

    No `Exception`: a library that catches those must not swallow it.

    Args:
        signal_number: which signal.
        hint: what to type to go on.
    """

    def __init__(self, signal_number: int, hint: str = "") -> None:
        super().__init__(f"stopped; {hint}" if hint else "stopped")
        self.code = 128 + signal_number
