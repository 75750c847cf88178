"""What of a run can be shown: its pictures in grids, their figures, and the losses of its training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagic_cli import png
from imagic_cli.errors import ArtifactError
from imagic_cli.evaluation.table import Table, load
from imagic_cli.run import Run
from imagic_cli.sweep import Item

_NAME = re.compile(r"(?P<setting>[a-z]+)-(?P<value>-?\d+\.\d+)_seed-(?P<seed>\d{4,19})\.png")
# So that a page of a long training stays small.
_MOST_POINTS = 600

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Picture:
    """One image on the disk and the record in it."""

    path: Path
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """The pictures of one folder: one way of sampling, or another method.

    Attributes:
        folder: where they lie.
        name: the folder's, for people: empty for the run's own way.
        setting: what changes along the grid: eta, or a baseline's strength or guidance.
        pictures: by setting, as it is written, and seed.
        problems: why files that are there cannot be shown, one line each.
        table: what was measured of them, if anything was.
    """

    folder: Path
    name: str
    setting: str
    pictures: Mapping[Item, Picture]
    problems: tuple[str, ...]
    table: Table | None

    @property
    def values(self) -> list[str]:
        """The settings, rising."""
        return sorted({value for value, _seed in self.pictures}, key=float)

    @property
    def seeds(self) -> list[int]:
        """The seeds, rising."""
        return sorted({seed for _value, seed in self.pictures})


def series(run: Run) -> list[Series]:
    """Every folder of pictures that a run has, its own way of sampling first; folders without pictures are left out."""
    folders = [("", run.path / "images")]
    folders += [(path.name, path / "images") for path in sorted((run.path / "variants").glob("*"))]
    folders += [(path.name, path) for path in sorted((run.path / "baselines").glob("*"))]
    found = (_series(name, folder) for name, folder in folders)
    return [each for each in found if each.pictures or each.problems]


def curves(path: Path) -> dict[str, Points]:
    """Losses and probes of one stage's log, by name: (step, value), at most 600 losses, each the mean of its stretch.

    What cannot be read is left out: the last line of a stage under way may be half written.
    """
    found: dict[str, Points] = {"loss": [], "probe": []}
    for entry in _entries(path):
        for name, points in found.items():
            if isinstance(value := entry.get(name), float) and isinstance(step := entry.get("step"), int) and value > 0:
                points.append((step, value))
    found["loss"] = _thinned(found["loss"])
    return {name: points for name, points in found.items() if points}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            yield entry


def _thinned(points: Points) -> Points:
    width = -(-len(points) // _MOST_POINTS)
    stretches = [points[start : start + width] for start in range(0, len(points), max(width, 1))]
    return [(each[-1][0], sum(value for _step, value in each) / len(each)) for each in stretches]


def _series(name: str, folder: Path) -> Series:
    pictures: dict[Item, Picture] = {}
    problems: list[str] = []
    setting = "eta"
    for path in sorted(folder.glob("*_seed-*.png")):
        named = _NAME.fullmatch(path.name)
        if named is None or not path.is_file():
            continue
        setting = named["setting"]
        try:
            png.check_whole(path)
            pictures[named["value"], int(named["seed"])] = Picture(path, png.read_record(path))
        except ArtifactError as error:
            problems.append(str(error))
    table = None
    if (folder / "metrics.csv").is_file():
        try:
            table = load(folder / "metrics.csv")
        except ArtifactError as error:
            problems.append(str(error))
    return Series(folder, name, setting, pictures, tuple(problems), table)
