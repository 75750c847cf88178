"""How editable and how faithful a run's images are: one row of figures per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from imagic_cli.backends.source import BUNDLED, BUNDLED_CLIP
from imagic_cli.errors import ImagicError, ModelError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.fidelity import measures
from imagic_cli.evaluation.table import Row, Table, preferred_fidelity
from imagic_cli.events import Listener, Note, Sampled, Started
from imagic_cli.sweep import Item

# What most published CLIP scores are computed with.
DEFAULT_CLIP = "openai/clip-vit-base-patch16"


def aligner(clip: str | None, model: str, tell: Listener) -> ClipScore | None:
    """The CLIP that judges text alignment: the one named, else the model's own, else the usual one if it is here.

    Args:
        clip: a folder or hub id, or None.
        model: what the run's model was called.
        tell: is told when the usual one cannot be had.

    Raises:
        ModelError: `clip` is named and cannot be loaded.
    """
    if clip is not None:
        return ClipScore(clip)
    if model in BUNDLED:
        return ClipScore(BUNDLED_CLIP, name="sketchbook/clip")
    try:
        return ClipScore(DEFAULT_CLIP)
    except ModelError:
        tell(Note(f"warning: no text alignment: {DEFAULT_CLIP} is not on this machine; name a CLIP with --clip"))
        return None


def score(images: Mapping[Item, Path], source: Image.Image, text: str, clip: ClipScore | None, tell: Listener) -> Table:
    """Figures of each image.

    Args:
        images: where each one lies.
        source: the photograph that the run began with.
        text: the target text.
        clip: who judges text alignment, if anybody.
        tell: is told after each image.

    Raises:
        ImagicError: an image cannot be read.
    """
    rows: dict[Item, Row] = {}
    alignment = f"clip_score[{clip.name}]" if clip else None
    tell(Started("measure", 0, len(images)))
    for done, (item, path) in enumerate(images.items(), 1):
        picture = _read(path)
        found = {} if clip is None or alignment is None else {alignment: clip([picture], text)[0]}
        rows[item] = found | measures(picture, source)
        tell(Sampled("measure", done / len(images)))
    return Table(rows, alignment, preferred_fidelity(next(iter(rows.values()))))


def suggested(table: Table, count: int = 3) -> list[str]:
    """The etas to look at first: where both alignment and fidelity keep most of what they could have.

    The paper says that such figures cannot choose eta reliably (section 4.3): this orders what people look at.
    """
    if table.alignment is None:
        return []
    aligned, faithful = (_spread(table.mean(name)) for name in (table.alignment, table.fidelity))
    # Eta 0 is the photograph again, and no edit.
    worth = {eta: min(aligned[eta], faithful[eta]) for eta in aligned if float(eta) != 0}
    return sorted(sorted(worth, key=lambda eta: -worth[eta])[:count], key=float)


def _spread(values: Mapping[str, float]) -> dict[str, float]:
    low, high = min(values.values()), max(values.values())
    return {eta: (value - low) / (high - low) if high > low else 1.0 for eta, value in values.items()}


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ImagicError(f"{path} cannot be read: {error}", "generate it again") from error
