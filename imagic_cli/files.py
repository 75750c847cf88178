"""The only way a run's files are written: a reader sees the whole old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imagic_cli.errors import DiskError, InputError

_TEMPORARY = ".tmp"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell an operating system error as a `DiskError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskError(f"{path}: {reason}", "free some space or check the folder's permissions") from error


def commit(path: Path, write: Callable[[Path], None]) -> None:
    """Replace `path` atomically by what `write` puts into a temporary file beside it.

    The temporary file is flushed to the disk before it takes the name, and the folder after, so that a power cut leaves
    either version. A symbolic link at `path` is replaced, never followed; the mode honours the umask.

    Raises:
        DiskError: the disk refused; `path` is as it was, or new already if only the folder's flush failed.
    """
    with disk_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=_TEMPORARY, dir=path.parent)
        temporary = Path(name)
        try:
            os.close(handle)
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            _flush(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _flush(path.parent)


def commit_bytes(path: Path, content: bytes) -> None:
    """`commit` for content that is already in memory."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    commit(path, write)


def unreadable(path: Path) -> DiskError:
    """The error for a file that is there but may not be read: that says nothing about its content."""
    return DiskError(f"{path} cannot be read: permission denied", "mend its permissions")


def ensure_space(folder: Path, needed: int) -> None:
    """Check before a long run that its results will fit.

    Raises:
        DiskError: `needed` bytes are not free where `folder` is.
    """
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(f"{folder}: {needed - free} bytes too few are free ({needed} needed)", "free some space")


def is_regular(path: Path) -> bool:
    """Whether a regular file lies there: no link, folder or device."""
    return os.path.lexists(path) and stat.S_ISREG(path.lstat().st_mode)


def size(path: Path) -> int:
    """Bytes of a file; none where it is missing."""
    return path.stat().st_size if path.is_file() else 0


def remove(path: Path) -> None:
    """Delete one file; a missing one is fine.

    Raises:
        DiskError: the disk refused.
    """
    with disk_errors(path):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in `folder`; the caller holds the run's lock."""
    if folder.is_dir():
        # The second pattern is safetensors': it writes through a temporary file of its own.
        for leftover in (*folder.glob(f".*{_TEMPORARY}"), *folder.glob(f"{_TEMPORARY}*")):
            if leftover.is_symlink() or not leftover.is_dir():
                remove(leftover)


def inner_folder(parent: Path, name: str) -> Path:
    """Make and return the folder `name` in `parent`.

    Raises:
        InputError: a symbolic link or a file stands there: following it would write outside the run directory.
        DiskError: the disk refused.
    """
    folder = parent / name
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder of the run's own", "remove it and try again")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # There is no call that only reads it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
