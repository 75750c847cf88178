"""Files written where the user says: none takes the place of what somebody else made, or of what a run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from imagic_cli import backends, image, photo
from imagic_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from imagic_cli.backends.source import Model
    from imagic_cli.record import Record


def check_free(
    file: Path, ours: Callable[[Path], bool], force: bool = False, hint: str = "--force replaces it"
) -> None:
    """Refuse the place of another file.

    Args:
        file: where something is to be written.
        ours: whether what is there may be replaced all the same.
        force: whether anything may.
        hint: what else to do.

    Raises:
        UsageError: another file is there.
    """
    if file.exists() and not force and not ours(file):
        raise UsageError(f"{file} is another file", hint)


def check_outside(file: Path, run: Path, flag: str) -> None:
    """Refuse a file inside a run, whose files are what its commands make of them.

    Raises:
        UsageError: it is inside.
    """
    if file.resolve().is_relative_to(run.resolve()):
        raise UsageError(f"{flag} {file} is inside the run", "name a file elsewhere")


def check_no_photograph(file: Path, record: Record, model: Model, flag: str) -> None:
    """Refuse the place of the photograph that a run began with: nothing could make it again.

    Args:
        file: where something is to be written.
        record: the run's; it does not say where the photograph lay, but what became of it.
        model: the run's.
        flag: how the file was typed.

    Raises:
        UsageError: it is that photograph.
    """
    if not file.exists():
        return
    settings, backend = record.photo, backends.load(model)
    with contextlib.suppress(InputError):
        size = settings.size or backend.size
        made, _notes = image.prepare(photo.read(file), size, backend.multiple, settings.fit, settings.center)
        if image.pixels_digest(made) == record.image.pixels:
            raise UsageError(f"{flag} {file} is the photograph that is edited", "name another file")
