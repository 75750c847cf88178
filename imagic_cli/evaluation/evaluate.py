"""`imagic evaluate`: a list of edits, one run directory each, and what all of them say together."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagic_cli import files
from imagic_cli.config import How, ModelFlags
from imagic_cli.errors import ImagicError, InputError, Interrupted
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.scoring import aligner, score
from imagic_cli.evaluation.silent import Recipe, nobody, sampled, tuned
from imagic_cli.evaluation.table import Table, preferred_fidelity
from imagic_cli.events import Listener, Note
from imagic_cli.manifest import Pair
from imagic_cli.names import slug
from imagic_cli.resolve import check_model
from imagic_cli.sweep import Item


@dataclass(frozen=True)
class Entry:
    """One edit of a list, by the name of its files: its place there, the photograph's name and the text."""

    name: str
    image: Path
    text: str


def entries(pairs: Sequence[Pair]) -> list[Entry]:
    """The edits of a list, each under a name of its own."""
    return [
        Entry(f"{number:04d}-{slug(pair.image.stem, 24)}-{slug(pair.text, 32)}", pair.image, pair.text)
        for number, pair in enumerate(pairs, 1)
    ]


@dataclass(frozen=True)
class Evaluation:
    """How every edit of a list is made and measured.

    Attributes:
        folder: of the runs, of `results/` and of `failures/`.
        model: as for `imagic optimize`.
        recipe: of the three stages.
        items: which images of each run.
        clip: who judges text alignment; None is the model's own or the usual one.
        discard: remove each run's trained change once its images are there.
        how: device and the like.
        tell: who listens.
    """

    folder: Path
    model: ModelFlags
    recipe: Recipe
    items: Sequence[Item]
    clip: str | None
    discard: bool
    how: How
    tell: Listener
    _aligners: dict[str, ClipScore | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def run(self, entries: Sequence[Entry]) -> None:
        """Make and measure every edit whose result is not there yet; a failure is recorded, and the next one follows.

        Raises:
            Interrupted: a signal came; what is done is kept.
            DiskError: a result cannot be written.
            ImagicError: the model cannot be had, and no edit would succeed.
        """
        check_model(self.model)
        for name in ("results", "failures"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        todo = [entry for entry in entries if not self._is_done(entry)]
        began = time.monotonic()
        for done, entry in enumerate(todo, 1):
            failure = self.folder / "failures" / f"{entry.name}.json"
            try:
                self._save(self.folder / "results" / f"{entry.name}.json", self._edit(entry))
                files.remove(failure)
                told = "done"
            except Interrupted as error:
                raise Interrupted(error.code - 128, "what is done is kept: the same command continues") from error
            except ImagicError as error:
                told = f"failed: {error}"
                self._save(failure, {"text": entry.text, "code": error.code, "message": str(error)})
            minutes = (time.monotonic() - began) / done * (len(todo) - done) / 60
            self.tell(Note(f"{entry.name}: {told}; {done} of {len(todo)}, about {minutes:.0f} min left"))

    def _is_done(self, entry: Entry) -> bool:
        # Another grid is other work: images that are there already are not made again.
        path = self.folder / "results" / f"{entry.name}.json"
        if not path.exists():
            return False
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {(row["eta"], row["seed"]) for row in rows} >= set(self.items)

    def _edit(self, entry: Entry) -> dict[str, Any]:
        began = time.monotonic()
        run_path = self.folder / entry.name
        ready = tuned(entry.image, entry.text, run_path, self.model, self.recipe, self.how)
        pictures = sampled(ready, self.items, self.how)
        paths = {item: pictures.path(item) for item in self.items}
        clip = self.aligner(ready.record.model.source)
        table = score(paths, ready.image, entry.text, clip, nobody)
        table.save(pictures.folder / "metrics.csv")
        if self.discard:
            for level in ready.record.levels():
                files.remove(ready.run.weights_file(level))
        rows = [{"eta": eta, "seed": seed, **row} for (eta, seed), row in table.rows.items()]
        return {
            "text": entry.text,
            "image": f"{entry.name}/image.png",
            "sheet": f"{entry.name}/{pictures.sheet_file.relative_to(run_path).as_posix()}",
            "alignment": table.alignment,
            "fidelity": table.fidelity,
            "seconds": round(time.monotonic() - began, 1),
            "rows": rows,
        }

    def aligner(self, model: str) -> ClipScore | None:
        """Who judges text alignment for a run of the model of that name.

        Raises:
            ModelError: `clip` cannot be loaded.
        """
        # Some hundred megabytes, which are not read anew for every edit.
        if model not in self._aligners:
            self._aligners[model] = aligner(self.clip, model, self.tell)
        return self._aligners[model]

    def _save(self, path: Path, content: Mapping[str, Any]) -> None:
        files.commit_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Summary:
    """What the edits of a folder say together.

    Attributes:
        results: each edit's result, by name.
        failures: each failed edit's text, exit code and message, by name.
        curves: figure -> eta -> its mean over edits (each first averaged over its seeds).
    """

    results: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, Interval]]

    @property
    def alignment(self) -> str | None:
        """The figure of text alignment, where there is one."""
        return next((name for name in self.curves if name.startswith("clip_score")), None)

    @property
    def fidelity(self) -> str:
        """The figure of fidelity to the input."""
        return preferred_fidelity(self.curves)

    def tables(self) -> dict[str, Table]:
        """Each edit's figures, by its name."""
        found = {}
        for name, result in self.results.items():
            rows = {(row["eta"], row["seed"]): {key: row[key] for key in self.curves} for row in result["rows"]}
            found[name] = Table(rows, self.alignment, self.fidelity)
        return found


def summary(folder: Path) -> Summary:
    """Everything that the results in `folder` say together.

    Raises:
        InputError: there are none, or they were measured with different networks, which may not be averaged.
    """
    results, failures = (_every(folder / name) for name in ("results", "failures"))
    if not results:
        raise InputError(f"{folder} holds no results", "its failures are in failures/" if failures else "")
    names = [tuple(name for name in each["rows"][0] if name not in {"eta", "seed"}) for each in results.values()]
    if len(set(names)) > 1:
        raise InputError(f"{folder} holds figures of different networks: {', '.join(sorted({str(n) for n in names}))}")
    etas = sorted({row["eta"] for each in results.values() for row in each["rows"]}, key=float)
    curves = {name: {eta: bootstrap(_means(results, name, eta)) for eta in etas} for name in names[0]}
    return Summary(results, failures, curves)


def _means(results: Mapping[str, dict[str, Any]], name: str, eta: str) -> list[float]:
    found = []
    for each in results.values():
        values = [row[name] for row in each["rows"] if row["eta"] == eta]
        if values:
            found.append(sum(values) / len(values))
    return found


def _every(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
