"""A disk that fails at will: counts the file operations of a process, and spoils one of them.

What Python itself does is met one call at a time, down to the raw writes below its buffers. safetensors writes in Rust,
where the kernel is made to refuse: a limit on file sizes that ends the process, or the write, halfway.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

WRITING = {"write", "save_file"}
FAULTS = ("kill", "ENOSPC", "EIO", "short write", "fsync failure")
_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "fsync failure": errno.EIO}
# What frees space, or needs none, goes on where the disk is full.
_FREE = {"unlink", "chmod", "replace", "rename", "open folder", "open to flush"}


def applies(fault: str, kind: str) -> bool:
    """Whether an operation can fail like that."""
    if fault == "short write":
        return kind in WRITING
    return kind == "fsync" if fault == "fsync failure" else True


class Disk:
    """Stands between this process and the files below some folders.

    Args:
        watched: the folders.
        journal: where each operation's number, kind and path go, one per line.
        at: which operation fails, from 1 on; 0 is none.
        fault: how.
    """

    def __init__(self, watched: list[Path], journal: Path | None = None, at: int = 0, fault: str = "") -> None:
        self.watched = [str(folder.absolute()) for folder in watched]
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if journal else -1
        self.at, self.fault = at, fault
        self.number = 0
        self.full = False
        self.real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        """Take the place of Python's file functions, for the rest of this process."""
        for name in ("open", "write", "pwrite", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "chmod"):
            self.real[name] = getattr(os, name)
        self.real["io.open"], self.real["save_file"] = io.open, safetensors.torch.save_file
        os.open = self._open_low  # type: ignore[assignment]
        for name in ("write", "pwrite"):
            setattr(os, name, lambda handle, content, *rest, name=name: self._write_low(name, handle, content, *rest))
        os.fsync = lambda handle: self._meet("fsync", self._of(handle), lambda: self.real["fsync"](handle), handle)
        for name in ("replace", "rename", "unlink", "remove", "mkdir", "chmod"):
            setattr(os, name, self._named(name))
        builtins.open = io.open = self._open  # type: ignore[assignment]
        safetensors.torch.save_file = self._save_file

    def _named(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            kind = "mkdir again" if name == "mkdir" and Path(path).is_dir() else name
            return self._meet(kind, os.fspath(path), lambda: self.real[name](path, *rest, **options))

        return call

    def _open_low(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        kind = "open to flush"
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            kind = "open nameless"
        elif flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            kind = "open to write"
        elif Path(os.fsdecode(path)).is_dir():
            kind = "open folder"
        return int(self._meet(kind, os.fspath(path), lambda: self.real["open"](path, flags, *rest, **options)))

    def _write_low(self, name: str, handle: int, content: bytes, *rest: int) -> int:
        def act(part: float = 1.0) -> int:
            return int(self.real[name](handle, content[: max(1, int(len(content) * part))], *rest))

        return int(self._meet("write", self._of(handle), act))

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any, **more: Any):  # noqa: ANN202
        def plain() -> Any:
            return self.real["io.open"](file, mode, buffering, encoding, *rest, **more)

        if isinstance(file, int) or not set(mode) & set("wax+") or not self._is_watched(os.fspath(file)):
            return plain()
        raw = self._meet("open to write", os.fspath(file), lambda: _Raw(file, mode.replace("b", "").replace("t", "")))
        raw.disk = self
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)

    def _save_file(self, tensors: Any, path: Any, *rest: Any, **options: Any) -> None:
        def act(part: float = 1.0) -> None:
            if part < 1:
                size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
                resource.setrlimit(resource.RLIMIT_FSIZE, (max(1, int(size * part)), resource.RLIM_INFINITY))
            try:
                self.real["save_file"](tensors, path, *rest, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        self._meet("save_file", os.fspath(path), act)

    def _meet(self, kind: str, path: str, act: Callable[..., Any], handle: int = -1) -> Any:
        if not self._is_watched(path):
            return act()
        self.number += 1
        if self.journal >= 0:
            self.real["write"](self.journal, f"{self.number}\t{kind}\t{path}\n".encode())
        if self.full and kind not in _FREE:
            raise _error(errno.ENOSPC, kind, path)
        return self._spoil(kind, path, act, handle) if self.number == self.at else act()

    def _spoil(self, kind: str, path: str, act: Callable[..., Any], handle: int) -> Any:
        if self.fault == "kill":
            if kind == "save_file":
                # The kernel ends the process in the middle of Rust's write.
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            if kind in WRITING:
                act(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "short write":
            return act(0.5)
        if self.fault == "fsync failure" and os.path.isfile(path):  # noqa: PTH113
            # What was not on the disk yet is lost.
            os.truncate(handle, os.fstat(handle).st_size // 2)
        if self.fault == "ENOSPC":
            self.full = True
            if kind == "write":
                act(0.5)
        raise _error(_ERRORS[self.fault], kind, path)

    def _of(self, handle: int) -> str:
        return str(Path(f"/proc/self/fd/{handle}").readlink())

    def _is_watched(self, path: str) -> bool:
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return any(full == folder or full.startswith(f"{folder}/") for folder in self.watched)


class _Raw(io.FileIO):
    disk: Disk

    def write(self, content: Any) -> int:
        def act(part: float = 1.0) -> int:
            # A first write of one byte has no half.
            return super(_Raw, self).write(bytes(content)[: max(1, int(len(content) * part))])

        return int(self.disk._meet("write", str(self.name), act))


def _error(number: int, kind: str, path: str) -> Exception:
    if kind == "save_file":
        return SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    return OSError(number, os.strerror(number), path)
