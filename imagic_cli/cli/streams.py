"""Standard output and standard error, whoever reads them: nobody from the start, or nobody any more."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Stream(io.FileIO):
    """Drops what its reader no longer takes (imagic ... | head): the work goes on, and ends with its own code."""

    def write(self, content: Buffer) -> int:
        """See `io.FileIO`."""
        try:
            return super().write(content)
        except BrokenPipeError:
            nowhere(self.fileno())
            return memoryview(content).nbytes


def nowhere(number: int) -> None:
    """Let what is written to this open file from now on go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def open_streams() -> None:
    """Give standard output and standard error a place to go to, whatever the caller left open."""
    # A closed stream's number would be the next opened file's, and what is printed would land in it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # The names of files that are no valid UTF-8 leave as they came.
    sys.stdout = _text(1, sys.stdout, "surrogateescape")
    sys.stderr = _text(2, sys.stderr, "backslashreplace")


def _text(number: int, given: object, errors: str) -> io.TextIOWrapper:
    encoding = getattr(given, "encoding", "utf-8")
    buffered = io.BufferedWriter(_Stream(number, "w", closefd=False))
    return io.TextIOWrapper(buffered, encoding, errors, line_buffering=getattr(given, "line_buffering", False))
