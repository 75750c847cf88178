"""Which run a command means: the one that is named, or the one last used from this working directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imagic_cli import files
from imagic_cli.errors import UsageError
from imagic_cli.events import Listener, Note
from imagic_cli.photo import quoted
from imagic_cli.run import Run

_LAST = ".imagic-run"


def remember(path: Path) -> None:
    """Make `path` the run that later commands in this working directory take."""
    # A read-only working directory only loses this convenience.
    with contextlib.suppress(Exception):
        files.commit_bytes(Path(_LAST), os.fsencode(f"{os.path.relpath(path)}\n"))


def named_run(path: Path | None) -> Path | None:
    """The run that --run or IMAGIC_RUN names."""
    if path is None and os.environ.get("IMAGIC_RUN"):
        path = Path(os.environ["IMAGIC_RUN"])
    if path is not None and not is_utf8(str(path)):
        raise UsageError("the run's name is not valid UTF-8", "rename it")
    if path is not None and not can_be_named(path):
        raise UsageError("--run is no name that a directory can have")
    return path


def is_utf8(text: str) -> bool:
    """Whether a text of the command line is UTF-8: other bytes reach Python as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def can_be_named(path: Path) -> bool:
    """Whether the file system takes such a name at all."""
    # Safetensors opens no file whose name is not UTF-8.
    if not is_utf8(str(path)):
        return False
    lengths = [len(part.encode()) for part in path.parts]
    return "\0" not in str(path) and sum(lengths) + len(lengths) < 4096 and max(lengths, default=0) <= 255


def existing_run(path: Path | None, tell: Listener) -> Run:
    """The run to go on with: the one named, or the one last used from this working directory, which is told.

    Raises:
        UsageError: none is named and none was used.
    """
    named = named_run(path)
    if named is not None:
        return Run(named)
    pointer = Path(_LAST)
    last = Path(os.fsdecode(pointer.read_bytes()).removesuffix("\n")) if files.is_regular(pointer) else None
    if last is None or not can_be_named(last):
        raise UsageError("no run was used from this directory yet", "name one, or start: imagic optimize IMAGE TEXT")
    tell(Note(f"run: {quoted(last)}"))
    return Run(last)
