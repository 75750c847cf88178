"""Figures of a run's images, and their CSV. Reading them needs no torch: a report only shows what was computed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagic_cli import files
from imagic_cli.errors import ArtifactError
from imagic_cli.sweep import Item

Row = dict[str, float]


@dataclass(frozen=True)
class Table:
    """Figures of a run's images.

    Attributes:
        rows: by eta and seed; each a figure's full name and its value.
        alignment: the name of the figure that says how well the image fits the text; None where no CLIP could be had.
        fidelity: the name of the one that says how near it is to the input.
    """

    rows: Mapping[Item, Row]
    alignment: str | None
    fidelity: str

    def save(self, path: Path) -> None:
        """Write it as CSV: eta, seed, and one column per figure.

        Raises:
            DiskError: the disk refused.
        """
        names = list(next(iter(self.rows.values())))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["eta", "seed", *names])
        for (eta, seed), row in self.rows.items():
            writer.writerow([eta, seed, *(f"{row[name]:.6g}" for name in names)])
        files.commit_bytes(path, out.getvalue().encode())

    def joined(self, path: Path, picture: Callable[[Item], Path]) -> Table:
        """This, and the rows of the table at `path` whose pictures are there, where its figures are the same ones."""
        try:
            before = load(path)
        except ArtifactError:
            return self
        names = set(next(iter(self.rows.values())))
        rows = {item: row for item, row in before.rows.items() if set(row) == names and picture(item).exists()}
        rows |= self.rows
        return replace(self, rows=dict(sorted(rows.items(), key=lambda row: (float(row[0][0]), row[0][1]))))

    def mean(self, name: str) -> dict[str, float]:
        """One figure over the seeds, by eta in rising order."""
        etas = sorted({eta for eta, _seed in self.rows}, key=float)
        values = {eta: [row[name] for (each, _seed), row in self.rows.items() if each == eta] for eta in etas}
        return {eta: sum(each) / len(each) for eta, each in values.items()}


def load(path: Path) -> Table:
    """What `Table.save` wrote.

    Raises:
        ArtifactError: it cannot be read, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = [name for name in reader.fieldnames or [] if name not in {"eta", "seed"}]
            rows = {(row["eta"], int(row["seed"])): {name: _finite(row[name]) for name in names} for row in reader}
            etas = [_finite(eta) for eta, _seed in rows]
        if not etas or preferred_fidelity(names) not in names:
            raise ValueError("no figures")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ArtifactError(f"{path} is no table of figures", "remove it; imagic sweep makes it again") from error
    alignment = next((name for name in names if name.startswith("clip_score[")), None)
    return Table(rows, alignment, preferred_fidelity(names))


def preferred_fidelity(names: Iterable[str]) -> str:
    """The figure that stands for fidelity: the paper's, 1 - LPIPS, where it was computed, else SSIM."""
    return next((name for name in names if name.startswith("1-lpips")), "ssim")


def markdown(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number
