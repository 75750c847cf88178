"""What a step costs by the model's configs alone."""

from __future__ import annotations

from pathlib import Path

from imagic_cli import backends
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource
from imagic_cli.plan import counted


def flops(model: Path, size: int) -> dict[str, float]:
    """Operations of one step of A and of B, and of a guided one of sampling, which is two in one batch.

    Args:
        model: a Stable Diffusion folder.
        size: side of the picture, pixels.
    """
    blank = backends.load(find(ModelSource(source=str(model)))).blank(size, size)
    found = {}
    for name in ("A", "B", "sampling"):
        blank.level.module.requires_grad_(name == "B")
        embedding = blank.embedding.leaves() if name == "A" else blank.embedding
        found[name], _kept = counted(blank, embedding, 2 if name == "sampling" else 1, backward=name != "sampling")
    return found


def parameters(model: Path) -> int:
    """Of its denoiser."""
    blank = backends.load(find(ModelSource(source=str(model)))).blank(64, 64)
    return sum(each.numel() for each in blank.level.module.parameters())
