"""Files written where the user says: none takes the place of what somebody else made, or of what a run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from imagic_cli import backends, image, photo
from imagic_cli.errors import InputError, UsageError
from imagic_cli.png import is_edit

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
    """Refuse a file inside this run or another, whose files are what its commands make of them.

    Raises:
        UsageError: it is inside.
    """
    if file.resolve().is_relative_to(run.resolve()):
        raise UsageError(f"{flag} {file} is inside the run", "name a file elsewhere")
    for folder in file.resolve().parents:
        if (folder / "run.json").is_file():
            raise UsageError(f"{flag} {file} is inside the run {folder}", "name a file elsewhere")


def check_copy(file: Path, run: Path | None, photograph: Path | None, force: bool) -> None:
    """Refuse, before anything heavy is imported, a place for a run's picture that is taken by more than a picture.

    Args:
        file: where the picture is to be copied to.
        run: the run directory, where it is known already.
        photograph: the file that the run begins with, where it is known.
        force: whether a file that this tool did not make may be replaced.

    Raises:
        UsageError: it is inside the run, the photograph, or another file and no `force`.
    """
    if run is not None:
        check_outside(file, run, "--output")
    # Where one of the two is not there, or cannot be, they are not one.
    with contextlib.suppress(OSError, ValueError):
        if photograph is not None and file.samefile(photograph):
            raise _photograph(file)
    check_free(file, is_edit, force)


def is_picture(file: Path, picture: Image.Image) -> bool:
    """Whether these very pixels are there already."""
    with contextlib.suppress(InputError):
        return image.pixels_digest(Image.fromarray(photo.read(file).pixels)) == image.pixels_digest(picture)
    return False


def check_no_photograph(file: Path, record: Record, model: Model) -> None:
    """Refuse the place of the photograph that a run began with, by what the run made of it: it holds no path.

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
            raise _photograph(file)


def _photograph(file: Path) -> UsageError:
    return UsageError(f"--output {file} is the photograph that is edited", "name another file")
