"""Whether what lies in a run is of the work that is wanted: done, to be continued, or of other work."""

from __future__ import annotations

import contextlib
from pathlib import Path

from imagic_cli import files
from imagic_cli.container import peek, read
from imagic_cli.errors import ArtifactError
from imagic_cli.stamps import Stamp


def is_done(path: Path, wanted: Stamp, force: bool) -> bool:
    """Whether the artifact at `path` is what `wanted` would make; it is verified, not believed.

    Raises:
        ArtifactError: it is corrupt or of other work, and no `force`.
    """
    if force or not path.exists():
        return False
    found, _tensors, _digest = read(path, wanted.kind)
    if found.key != wanted.key:
        raise ArtifactError(f"{path} is of other work ({', '.join(found.differences(wanted))})", "--force replaces it")
    return True


def check_progress(path: Path, wanted: Stamp, force: bool) -> None:
    """Refuse, before anything is written, to go on from progress of other work.

    Raises:
        ArtifactError: the progress at `path` is of other work or corrupt, and no `force`.
    """
    if force or not path.exists():
        return
    found, _digest = peek(path, "progress")
    if found.key != wanted.key:
        changed = ", ".join(found.differences(wanted))
        raise ArtifactError(f"{path} is progress of other work ({changed})", "--force begins anew")


def drop_progress(path: Path, done: Stamp) -> None:
    """Remove the progress of work that is done: a kill may come between its artifact and the removal.

    Raises:
        DiskError: the disk refused.
    """
    with contextlib.suppress(ArtifactError):
        if path.exists() and peek(path, "progress")[0].key == done.key:
            files.remove(path)


def refuse_stale(path: Path, found: Stamp, wanted: Stamp, command: str) -> None:
    """Refuse an artifact that the stage before it no longer stands for.

    Raises:
        ArtifactError: it is of other work than `wanted`; the hint names the command that makes it anew.
    """
    if found.key != wanted.key:
        changed = ", ".join(found.differences(wanted))
        raise ArtifactError(f"{path} is stale ({changed})", f"run: imagic {command} --force --run {path.parent}")
