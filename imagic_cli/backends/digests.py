"""Hashes of large files, remembered while size and time of change stay the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from imagic_cli import files


def cache_folder() -> Path:
    """Where this program keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagic"


def file_digest(path: Path, fresh: bool = False) -> str:
    """sha256 of a file's content, hex.

    Args:
        path: the file.
        fresh: read it even if it seems unchanged.
    """
    real = path.resolve()
    status = real.stat()
    memory = cache_folder() / "digests" / hashlib.sha256(str(real).encode()).hexdigest()[:32]
    mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if not fresh:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memory.read_bytes())
            if known["mark"] == mark:
                return str(known["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A cache that cannot be written costs time, not the run.
    with contextlib.suppress(Exception):
        memory.parent.mkdir(parents=True, exist_ok=True)
        files.commit_bytes(memory, json.dumps({"mark": mark, "sha256": digest}).encode())
    return digest
