"""Other methods' pictures for the same edits, measured as `imagic evaluate` measures its own and set beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from imagic_cli import files
from imagic_cli.errors import InputError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.scoring import score
from imagic_cli.evaluation.silent import nobody
from imagic_cli.evaluation.summary import Entry, Summary
from imagic_cli.evaluation.table import Row
from imagic_cli.manifest import Pair
from imagic_cli.names import slug
from imagic_cli.photo import read
from imagic_cli.run import Run

OURS = "imagic"


Means = dict[str, dict[str, dict[str, Interval]]]
"""By method, by setting (eta, or none), by figure: its mean over edits."""


@dataclass(frozen=True)
class Beside:
    """What other methods made of a list's edits.

    Attributes:
        pictures: by method and the edit's name, where they lie in the evaluation's folder.
        shared: how many edits every method has a picture of: only over these can their figures be compared.
        means: over the shared edits; empty where there are none.
    """

    pictures: dict[str, dict[str, str]] = field(default_factory=dict)
    shared: int = 0
    means: Means = field(default_factory=dict)


def measured(
    folder: Path,
    found: Summary,
    pairs: Mapping[Entry, Pair],
    answers: Mapping[str, Mapping[Pair, Path]],
    aligner: Callable[[str], ClipScore | None],
) -> Beside:
    """Copy and measure the pictures of other methods, for the edits that are done.

    Each picture is scaled to the size of its run's input, what stands over being cut off evenly on both sides, and kept
    as `beside/<method>/<edit>.png`.

    Args:
        folder: of the evaluation.
        found: what its edits say together.
        pairs: the list's edits.
        answers: by method, its picture for each pair that it has one for.
        aligner: gives who judges text alignment for a run's model, so that both are judged by the same.

    Raises:
        InputError: the edits were measured with other networks than this machine or `aligner` measures with now.
        ImagicError: a picture cannot be read.
        DiskError: the disk refused.
    """
    pictures: dict[str, dict[str, str]] = {method: {} for method in answers}
    figures: dict[str, dict[str, Row]] = {method: {} for method in answers}
    for entry, pair in pairs.items():
        theirs = {method: given[pair] for method, given in answers.items() if pair in given}
        if not theirs or entry.name not in found.results:
            continue
        run = Run(folder / entry.name)
        source, model = run.read_image(), run.read_record().model.source
        for method, path in theirs.items():
            kept = Path("beside", slug(method, 40), f"{entry.name}.png")
            picture = ImageOps.fit(Image.fromarray(read(path).pixels), source.size, Image.Resampling.LANCZOS)
            _keep(folder / kept, picture)
            row = score({("", 0): folder / kept}, source, entry.text, aligner(model), nobody).rows["", 0]
            if missing := ", ".join(sorted(found.curves.keys() - row.keys())):
                raise InputError(f"{folder} was measured with {missing}, which is not at hand", "name the same --clip")
            pictures[method][entry.name] = kept.as_posix()
            figures[method][entry.name] = row
    shared = [name for name in found.results if all(name in each for each in figures.values())] if answers else []
    return Beside(pictures, len(shared), _means(found, shared, figures) if shared else {})


def _means(found: Summary, shared: Sequence[str], figures: Mapping[str, Mapping[str, Row]]) -> Means:
    tables = found.tables()
    own = {figure: [tables[name].mean(figure) for name in shared] for figure in found.curves}
    # An edit made at some etas only says nothing at the others.
    etas = [eta for eta in next(iter(found.curves.values())) if all(eta in each for each in own[found.fidelity])]
    ours = {eta: {figure: bootstrap([each[eta] for each in own[figure]]) for figure in own} for eta in etas}
    theirs = {
        method: {"": {figure: bootstrap([rows[name][figure] for name in shared]) for figure in found.curves}}
        for method, rows in figures.items()
    }
    return {OURS: ours} | theirs


def _keep(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.commit(path, lambda temporary: picture.save(temporary, format="PNG"))
