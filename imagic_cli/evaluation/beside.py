"""Other methods' pictures for the same edits, measured as `imagic evaluate` measures its own and set beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from imagic_cli import files
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.evaluate import Entry, Summary
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.scoring import score
from imagic_cli.evaluation.silent import nobody
from imagic_cli.evaluation.table import Row
from imagic_cli.manifest import Pair
from imagic_cli.names import slug
from imagic_cli.photo import read
from imagic_cli.run import Run

OURS = "imagic"


@dataclass(frozen=True)
class Beside:
    """What other methods made of a list's edits.

    Attributes:
        figures: by method and the edit's name.
        pictures: where they lie in the evaluation's folder, the same.
    """

    figures: dict[str, dict[str, Row]] = field(default_factory=dict)
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)

    def shared(self, found: Summary) -> list[str]:
        """The edits that every method has a picture of: only over these can their figures be compared."""
        return [name for name in found.results if all(name in each for each in self.figures.values())]

    def lines(self, found: Summary) -> dict[str, dict[str, dict[str, Interval]]]:
        """By method, by setting (eta, or none), by figure: its mean over the shared edits; no method without those."""
        shared = self.shared(found)
        if not shared or not self.figures:
            return {}
        tables = found.tables()
        own = {figure: [tables[name].mean(figure) for name in shared] for figure in found.curves}
        # An edit made at some etas only says nothing at the others.
        etas = [eta for eta in next(iter(found.curves.values())) if all(eta in each for each in own[found.fidelity])]
        ours = {eta: {figure: bootstrap([each[eta] for each in own[figure]]) for figure in own} for eta in etas}
        theirs = {
            method: {"": {figure: bootstrap([rows[name][figure] for name in shared]) for figure in found.curves}}
            for method, rows in self.figures.items()
        }
        return {OURS: ours} | theirs


def measured(
    folder: Path,
    pairs: Mapping[Entry, Pair],
    answers: Mapping[str, Mapping[Pair, Path]],
    aligner: Callable[[str], ClipScore | None],
) -> Beside:
    """Copy and measure the pictures of other methods, for the edits that are done.

    Each picture is scaled to the size of its run's input, what stands over being cut off evenly on both sides, and kept
    as `beside/<method>/<edit>.png`.

    Args:
        folder: of the evaluation.
        pairs: the list's edits.
        answers: by method, its picture for each pair that it has one for.
        aligner: gives who judges text alignment for a run's model, so that both are judged by the same.

    Raises:
        ImagicError: a picture cannot be read.
        DiskError: the disk refused.
    """
    found = Beside({name: {} for name in answers}, {name: {} for name in answers})
    for entry, pair in pairs.items():
        theirs = {method: pictures[pair] for method, pictures in answers.items() if pair in pictures}
        if not theirs or not (folder / "results" / f"{entry.name}.json").exists():
            continue
        run = Run(folder / entry.name)
        source, model = run.read_image(), run.read_record().model.source
        for method, path in theirs.items():
            kept = Path("beside", slug(method, 40), f"{entry.name}.png")
            picture = ImageOps.fit(Image.fromarray(read(path).pixels), source.size, Image.Resampling.LANCZOS)
            _keep(folder / kept, picture)
            table = score({("", 0): folder / kept}, source, entry.text, aligner(model), nobody)
            found.figures[method][entry.name] = table.rows["", 0]
            found.pictures[method][entry.name] = kept.as_posix()
    return found


def _keep(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.commit(path, lambda temporary: picture.save(temporary, format="PNG"))
