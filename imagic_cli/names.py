"""Names of folders and files: for people, and apart from each other."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from imagic_cli.config import SamplingSettings

BASE = "base"
"""The level that makes a picture from the text alone: the only one of most families, the first of a cascade."""


def plural(count: int, noun: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def part(name: str, level: str) -> str:
    """What a file or stage is called for one level: the plain name for the base, as where there is no other level."""
    return name if level == BASE else f"{name}-{level}"


def typed(stage: str, level: str) -> str:
    """The command that works on one level of a stage."""
    return stage if level == BASE else f"{stage} --level {level}"


def new_path(image: str, text: str, pixels: str) -> Path:
    """Where a run goes that was given no directory: names for people, and a hash that keeps runs apart."""
    return Path("runs") / f"{slug(image, 24)}-{slug(text, 40)}-{short_hash(pixels + text)}"


def short_hash(text: str) -> str:
    """Enough of a hash to keep names apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def slug(text: str, longest: int) -> str:
    """A file name's worth of `text`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "x"


def picture_name(eta: str, seed: int) -> str:
    """The file of one of stage C's images."""
    return f"eta-{eta}_seed-{seed:04d}.png"


def variant_name(usual: SamplingSettings, sampling: SamplingSettings) -> str:
    """A folder name for what differs from the run's usual way of sampling; empty if nothing does."""
    parts = []
    for name in type(sampling).model_fields:
        value = getattr(sampling, name)
        if value == getattr(usual, name):
            continue
        if isinstance(value, bool):
            parts.append(name if value else f"not-{name}")
        elif name in {"prompt", "negative"}:
            parts.append(f"{name}-{slug(str(value), 24)}-{short_hash(str(value))}")
        else:
            parts.append(f"{name}-{value}".replace("+", "p"))
    return "_".join(parts)
