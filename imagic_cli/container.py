"""The typed files between stages: the only place that reads or writes a safetensors file of a run.

A safetensors file has no checksum and its metadata keys have no order, so all is in ONE header key: the stamp, and
a digest over the stamp and every tensor's name, format, shape and bytes. Equal work gives equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from imagic_cli import files
from imagic_cli.errors import ArtifactError
from imagic_cli.stamps import SCHEMA, Stamp, canonical

if TYPE_CHECKING:
    from torch import Tensor


_HEADER = "imagic"
# What was read of an open file stays in memory until it is closed and none of its tensors is there any more.
_OPEN_BYTES = 128 << 20
# Beside a thread that computes, two that wait for each other do so for milliseconds: not for less than this.
_LARGE = 4 << 20
_FIELDS = {"kind": str, "stage": str, "settings": dict, "inputs": dict, "extra": dict, "schema": int, "digest": str}


def write(path: Path, stamp: Stamp, tensors: Mapping[str, Tensor]) -> str:
    """Write one artifact atomically and return its digest.

    Args:
        path: where.
        stamp: what it is.
        tensors: by name; each is asked for once, in the names' order, and hashed while the next is made.

    Raises:
        DiskError: the disk refused; an earlier artifact at `path` is whole.
    """
    from safetensors.torch import save_file

    plain: dict[str, Tensor] = {}

    def made() -> Iterator[tuple[str, Tensor]]:
        for name in sorted(tensors):
            plain[name] = tensors[name].detach().cpu().contiguous()
            yield name, plain[name]

    digest = _digest(stamp, made())
    header = {_HEADER: canonical(stamp.fields() | {"digest": digest})}

    def save(temporary: Path) -> None:
        with os_errors():
            save_file(plain, temporary, metadata=header)

    files.commit(path, save)
    return digest


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Tell what the disk refused to safetensors as the `OSError` that it was."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number.group(1)) if number else 0, str(error)) from error


def packed(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file for other programs; equal ones for equal content, if `header` has one key."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=dict(header))


def read(path: Path, kind: str) -> tuple[Stamp, dict[str, Tensor], str]:
    """Read and verify one artifact.

    Returns:
        Its stamp, its tensors (on the CPU) and its digest.

    Raises:
        ArtifactError: it is missing, corrupt, of another kind, or of another schema version.
        DiskError: it may not be read.
    """
    while True:
        before = _opened(path)
        try:
            return _read(path, kind)
        except ArtifactError:
            # safetensors opens a file twice, and in between another process may have put another one here.
            if _opened(path) == before:
                raise


def _read(path: Path, kind: str) -> tuple[Stamp, dict[str, Tensor], str]:
    _check_file(path)
    with _corruption(path):
        with safe_open(path, framework="pt") as file:
            stamp, digest = _header(file.metadata() or {}, path, kind)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if _digest(stamp, sorted(tensors.items())) != digest:
            raise ValueError("digest")
    return stamp, tensors, digest


def verify(path: Path, kind: str) -> Stamp:
    """The stamp of an artifact of which every bit is as it was written; a part of it at a time is in memory.

    Raises:
        ImagicError: as `read`.
    """
    _check_file(path)
    with _corruption(path):
        with safe_open(path, framework="pt") as file:
            stamp, digest = _header(file.metadata() or {}, path, kind)
        if _digest(stamp, each(path)) != digest:
            raise ValueError("digest")
    return stamp


def each(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a verified artifact by name, in order; if the caller keeps none, a part of them is in memory.

    Raises:
        ArtifactError: it is there no longer, or no longer whole.
    """
    done, left = 0, True
    while left:
        held = 0
        with _corruption(path), safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            while done < len(names) and held < _OPEN_BYTES:
                tensor = file.get_tensor(names[done])
                held += tensor.nbytes
                yield names[done], tensor
                del tensor
                done += 1
            left = done < len(names)


def peek(path: Path, kind: str) -> tuple[Stamp, str]:
    """The stamp and recorded digest of an artifact, without reading (or verifying) its tensors.

    Raises:
        ImagicError: as `read`.
    """
    _check_file(path)
    with _corruption(path), safe_open(path, framework="np") as file:
        return _header(file.metadata() or {}, path, kind)


def corrupt(path: Path) -> ArtifactError:
    """The error for a file whose content is not what was written."""
    return ArtifactError(f"{path} is corrupt", "restore it, or run the stage that makes it again with --force")


def _opened(path: Path) -> tuple[int, int] | None:
    """Which file stands here now."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _check_file(path: Path) -> None:
    if not path.is_file() or path.is_symlink():
        raise ArtifactError(f"{path} is missing")
    # safetensors says of every file that it cannot open that there is none.
    if not os.access(path, os.R_OK):
        raise files.unreadable(path)


def _header(metadata: Mapping[str, str], path: Path, kind: str) -> tuple[Stamp, str]:
    text = metadata.get(_HEADER, "")
    found = json.loads(text)
    # Another spelling of the same values was not written by us.
    if set(metadata) != {_HEADER} or canonical(found) != text:
        raise ValueError("header")
    if found["schema"] != SCHEMA:
        raise ArtifactError(
            f"{path} has layout version {found['schema']}, this program reads {SCHEMA}", "make it again"
        )
    if {name: type(value) for name, value in found.items()} != _FIELDS:
        raise ValueError("fields")
    digest = found.pop("digest")
    stamp = Stamp(**found)
    if stamp.kind != kind:
        raise ArtifactError(f"{path} holds {stamp.kind}, not {kind}")
    return stamp, digest


@contextlib.contextmanager
def _corruption(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise files.unreadable(path) from error
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError) as error:
        raise corrupt(path) from error


def _digest(stamp: Stamp, tensors: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    total = hashlib.sha256(canonical(stamp.fields()).encode())
    last: Future[None] | None = None
    # A large tensor is hashed while the next is read or made.
    with ThreadPoolExecutor(1) as hasher:
        for name, tensor in tensors:
            if last is not None:
                last.result()
                last = None
            total.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
            content = tensor.reshape(-1).view(torch.uint8).numpy().data
            if content.nbytes < _LARGE:
                total.update(content)
            else:
                last = hasher.submit(total.update, content)
    return total.hexdigest()
