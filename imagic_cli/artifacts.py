"""What lies between the stages, typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from imagic_cli.container import each, read, write
from imagic_cli.stamps import Stamp

if TYPE_CHECKING:
    from torch import Tensor

    from imagic_cli.embedding import Embedding

_Content = TypeVar("_Content")


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
    """Stage B's result: trained minus pretrained, for each trained tensor, named 'level/parameter'.

    Of a LoRA the two factors of that difference, named 'level/layer.lora_A.weight' and 'level/layer.lora_B.weight';
    its rank is in the stamp, and its alpha equals it. `imagic_cli.tuning.changes` reads either.
    """

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
    def each(path: Path) -> Iterator[tuple[str, str, Tensor]]:
        """What `save` wrote, tensor by tensor: of what (leaf, optimizer, losses, probes), its name there, itself."""
        for name, tensor in each(path):
            part, _, inner = name.partition("/")
            yield part, inner, tensor


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
