"""Names of folders and files: for people, and apart from each other."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from imagic_cli.config import SamplingSettings


def new_path(image: str, text: str, pixels: str) -> Path:
    """Where a run goes that was given no directory: names for people, and a hash that keeps runs apart."""
    return Path("runs") / f"{slug(image, 24)}-{slug(text, 40)}-{short_hash(pixels + text)}"


def short_hash(text: str) -> str:
    """Enough of a hash to keep names apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def slug(text: str, longest: int) -> str:
    """A file name's worth of `text`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "x"


def variant_name(usual: SamplingSettings, sampling: SamplingSettings) -> str:
    """A folder name for what differs from the run's usual way of sampling; empty if nothing does."""
    parts = []
    for name, value in sampling.model_dump().items():
        if value == getattr(usual, name):
            continue
        if isinstance(value, bool):
            parts.append(name if value else f"not-{name}")
        elif name in {"prompt", "negative"}:
            parts.append(f"{name}-{slug(str(value), 24)}-{short_hash(str(value))}")
        else:
            parts.append(f"{name}-{value}".replace("+", "p"))
    return "_".join(parts)
