"""One process at a time works in a run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from imagic_cli import files
from imagic_cli.errors import InputError, LockedError


@contextlib.contextmanager
def held(lock_file: Path) -> Iterator[None]:
    """Hold the run that this is the lock of.

    Raises:
        LockedError: another process holds it.
        InputError: something else stands there.
    """
    _check_lock(lock_file)
    lock = FileLock(lock_file)
    with files.disk_errors(lock_file):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            message = f"{lock_file.parent} is in use by process {_signed(lock_file)}"
            raise LockedError(message, "wait for it, or name another --run") from None
        _sign(lock_file, str(os.getpid()))
    try:
        yield
    finally:
        # A process may live on after its work: it is the holder no more.
        with contextlib.suppress(OSError):
            _sign(lock_file, "")
        lock.release()


@contextlib.contextmanager
def in_turn(lock_file: Path) -> Iterator[None]:
    """Wait until no other process is in here.

    Raises:
        DiskError: the disk refused the lock.
    """
    lock = FileLock(lock_file)
    with files.disk_errors(lock_file):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def holder(lock_file: Path) -> int | None:
    """The process that has signed this lock, if it lives; trying the lock would refuse one that begins right now."""
    with contextlib.suppress(OSError, ValueError):
        number = int(lock_file.read_text())
        os.kill(number, 0)
        return number
    return None


def changed_meanwhile(run: Path) -> LockedError:
    """The error for a run that another process held, and changed, since it was read."""
    return LockedError(f"another process changed {run} while this one began", "run the command again")


def _check_lock(lock_file: Path) -> None:
    # It is signed in place: under a link, symbolic or hard, that would write into another file.
    if os.path.lexists(lock_file) and not (files.is_regular(lock_file) and lock_file.stat().st_nlink == 1):
        raise InputError(f"{lock_file} is not a file of the run's own", "remove it and try again")


def _sign(lock_file: Path, name: str) -> None:
    # Into the lock file itself: no second file can disagree with it. Readers meet the old or the new number.
    handle = os.open(lock_file, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, f"{name:<20}\n".encode(), 0)
    finally:
        os.close(handle)


def _signed(lock_file: Path) -> int | str:
    # The holder signs right after it locks: until then the number of the one before it stands there.
    for _ in range(10):
        if number := holder(lock_file):
            return number
        time.sleep(0.05)
    return "unknown"
