"""The typed files between stages, the only place that reads or writes safetensors.

A safetensors file has no checksum and its metadata keys have no order, so all is in ONE header key: the stamp, and
a digest over the stamp and every tensor's name, format, shape and bytes. Equal work gives equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from safetensors import SafetensorError, safe_open

from imagic_cli import files
from imagic_cli.errors import ArtifactError
from imagic_cli.stamps import SCHEMA, Stamp, canonical

if TYPE_CHECKING:
    from torch import Tensor

    from imagic_cli.embedding import Embedding

_HEADER = "imagic"
_Content = TypeVar("_Content")
_FIELDS = {"kind", "stage", "settings", "inputs", "extra", "schema", "digest"}


def write(path: Path, stamp: Stamp, tensors: Mapping[str, Tensor]) -> str:
    """Write one artifact atomically and return its digest.

    Raises:
        DiskError: the disk refused; an earlier artifact at `path` is whole.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(stamp, plain)
    header = {_HEADER: canonical(stamp.fields() | {"digest": digest})}

    def save(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number.group(1)) if number else 0, str(error)) from error

    files.commit(path, save)
    return digest


def read(path: Path, kind: str) -> tuple[Stamp, dict[str, Tensor], str]:
    """Read and verify one artifact.

    Returns:
        Its stamp, its tensors (on the CPU) and its digest.

    Raises:
        ArtifactError: it is missing, corrupt, of another kind, or of another schema version.
    """
    stamp, digest = peek(path, kind)
    with _corruption(path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    if _digest(stamp, tensors) != digest:
        raise corrupt(path)
    return stamp, tensors, digest


def peek(path: Path, kind: str) -> tuple[Stamp, str]:
    """The stamp and recorded digest of an artifact, without reading (or verifying) its tensors.

    Raises:
        ArtifactError: as `read`.
    """
    if not path.is_file() or path.is_symlink():
        raise ArtifactError(f"{path} is missing")
    with _corruption(path), safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        text = metadata.get(_HEADER, "")
        found = json.loads(text)
        # Another spelling of the same values was not written by us.
        if set(metadata) != {_HEADER} or set(found) != _FIELDS or canonical(found) != text:
            raise ValueError("header")
        digest = str(found.pop("digest"))
        stamp = Stamp(**found)
    if stamp.schema != SCHEMA:
        raise ArtifactError(f"{path} has layout version {stamp.schema}, this program reads {SCHEMA}", "make it again")
    if stamp.kind != kind:
        raise ArtifactError(f"{path} holds {stamp.kind}, not {kind}")
    return stamp, digest


def corrupt(path: Path) -> ArtifactError:
    """The error for a file whose content is not what was written."""
    return ArtifactError(f"{path} is corrupt", "restore it, or make it again with --force")


@contextlib.contextmanager
def _corruption(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise corrupt(path) from error


def _digest(stamp: Stamp, tensors: Mapping[str, Tensor]) -> str:
    import torch

    total = hashlib.sha256(canonical(stamp.fields()).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@dataclass(frozen=True)
class Loaded(Generic[_Content]):
    """One verified artifact.

    Attributes:
        content: what it holds.
        stamp: which work made it.
        digest: of stamp and tensors; what later stages record as their input.
    """

    content: _Content
    stamp: Stamp
    digest: str


@dataclass(frozen=True)
class Embeddings:
    """Stage A's result: e_tgt, e_opt, and the unconditional embedding; the later stages load no text encoder."""

    target: Embedding
    optimized: Embedding
    null: Embedding

    def save(self, path: Path, stamp: Stamp) -> str:
        """Write, and return the digest."""
        parts = {"target": self.target, "optimized": self.optimized, "null": self.null}
        return write(
            path, stamp, {f"{of}/{name}": t for of, part in parts.items() for name, t in part.tensors().items()}
        )

    @staticmethod
    def load(path: Path) -> Loaded[Embeddings]:
        """Read and verify."""
        from imagic_cli.embedding import Embedding

        stamp, tensors, digest = read(path, "embeddings")
        target, optimized, null = (Embedding.of(_below(tensors, part)) for part in ("target", "optimized", "null"))
        return Loaded(Embeddings(target, optimized, null), stamp, digest)


@dataclass(frozen=True)
class Weights:
    """Stage B's result: trained minus pretrained, for each trained tensor, named 'level/parameter'."""

    deltas: Mapping[str, Tensor]

    def save(self, path: Path, stamp: Stamp) -> str:
        """Write, and return the digest."""
        return write(path, stamp, self.deltas)

    @staticmethod
    def load(path: Path) -> Loaded[Weights]:
        """Read and verify."""
        stamp, tensors, digest = read(path, "weights")
        return Loaded(Weights(tensors), stamp, digest)

    def of(self, level: str) -> dict[str, Tensor]:
        """The deltas of one level, by parameter name."""
        return _below(self.deltas, level)


@dataclass(frozen=True)
class Samples:
    """Stage C's result: e_bar by eta, and the final clean sample (1, C, h, w) by (eta, seed)."""

    embeddings: Mapping[str, Embedding]
    clean: Mapping[tuple[str, int], Tensor]

    def save(self, path: Path, stamp: Stamp) -> str:
        """Write, and return the digest."""
        parts = {
            f"e_bar/{eta}/{name}": t for eta, each in self.embeddings.items() for name, t in each.tensors().items()
        }
        return write(path, stamp, parts | {f"clean/{eta}/{seed}": t for (eta, seed), t in self.clean.items()})

    @staticmethod
    def load(path: Path) -> Loaded[Samples]:
        """Read and verify."""
        from imagic_cli.embedding import Embedding

        stamp, tensors, digest = read(path, "samples")
        bars, clean = _below(tensors, "e_bar"), _below(tensors, "clean")
        etas = sorted({name.split("/")[0] for name in bars})
        keys = {name: (name.split("/")[0], int(name.split("/")[1])) for name in clean}
        by_eta = {eta: Embedding.of(_below(bars, eta)) for eta in etas}
        return Loaded(Samples(by_eta, {keys[name]: tensor for name, tensor in clean.items()}), stamp, digest)


@dataclass(frozen=True)
class Text:
    """The embedding of one text that stage C met, so that no encoder is loaded for it again."""

    embedding: Embedding

    def save(self, path: Path, stamp: Stamp) -> str:
        """Write, and return the digest."""
        return write(path, stamp, self.embedding.tensors())

    @staticmethod
    def load(path: Path) -> Loaded[Text]:
        """Read and verify."""
        from imagic_cli.embedding import Embedding

        stamp, tensors, digest = read(path, "text")
        return Loaded(Text(Embedding.of(tensors)), stamp, digest)


@dataclass(frozen=True)
class Progress:
    """A stage under way, complete enough that what follows has the same bits as without the interruption.

    Attributes:
        leaves: what is trained, in fp32, by name.
        optimizer: the optimizer's state, named 'leaf/moment'.
        losses: (steps made,) float64.
        probes: (probes made, 2) float64: step and loss.
    """

    leaves: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    losses: Tensor
    probes: Tensor

    def save(self, path: Path, stamp: Stamp) -> str:
        """Write, and return the digest."""
        tensors = {f"leaf/{name}": t for name, t in self.leaves.items()}
        tensors |= {f"optimizer/{name}": t for name, t in self.optimizer.items()}
        return write(path, stamp, tensors | {"losses": self.losses, "probes": self.probes})

    @staticmethod
    def load(path: Path) -> Loaded[Progress]:
        """Read and verify."""
        stamp, tensors, digest = read(path, "progress")
        parts = Progress(_below(tensors, "leaf"), _below(tensors, "optimizer"), tensors["losses"], tensors["probes"])
        return Loaded(parts, stamp, digest)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
