"""`imagic evaluate`: a list of edits, one run directory each, and what all of them say together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imagic_cli import files
from imagic_cli.config import How, ModelFlags
from imagic_cli.errors import ArtifactError, ImagicError, InputError, SomeFailedError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.scoring import aligner, score
from imagic_cli.evaluation.settings import keep_to
from imagic_cli.evaluation.silent import Recipe, nobody, replaceable, resolved, sampled, tuned
from imagic_cli.evaluation.table import Table, preferred_fidelity
from imagic_cli.events import Listener, Note
from imagic_cli.manifest import Pair
from imagic_cli.names import BASE, slug
from imagic_cli.resolve import check_model
from imagic_cli.run import Run
from imagic_cli.signals import continued
from imagic_cli.sweep import Item

_RESULT, _FAILURE = {"text", "image", "sheet", "rows"}, {"text", "code", "message"}


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
            InputError: there are results of another model or other settings in the folder.
            Interrupted: a signal came; what is done is kept.
            DiskError: a result cannot be written.
            ImagicError: the model cannot be had, and no edit would succeed.
        """
        check_model(self.model)
        for name in ("results", "failures"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._check_settings(entries)
        todo = [entry for entry in entries if _result(self.folder, entry, self.items) is None]
        for entry in set(entries) - set(todo):
            files.remove(self._failure(entry))
        began = time.monotonic()
        for done, entry in enumerate(todo, 1):
            try:
                with continued(), replaceable(Run(self.folder / entry.name)):
                    self._save(self.folder / "results" / f"{entry.name}.json", self._edit(entry))
                files.remove(self._failure(entry))
                told = "done"
            except ImagicError as error:
                told = f"failed: {error}"
                self._save(self._failure(entry), {"text": entry.text, "code": error.code, "message": str(error)})
            minutes = (time.monotonic() - began) / done * (len(todo) - done) / 60
            self.tell(Note(f"{entry.name}: {told}; {done} of {len(todo)}, about {minutes:.0f} min left"))

    def _failure(self, entry: Entry) -> Path:
        return self.folder / "failures" / f"{entry.name}.json"

    def _check_settings(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            with TemporaryDirectory() as place, contextlib.suppress(ImagicError):
                ready = resolved(entry.image, entry.text, Path(place) / "run", self.model, self.recipe, self.how)
                break
        else:
            # None can be made: that is told of each.
            return
        keep_to(self.folder, ready.record, clip=self.clip)

    def _edit(self, entry: Entry) -> dict[str, Any]:
        began = time.monotonic()
        run_path = self.folder / entry.name
        known = _result(self.folder, entry, ()) or {"rows": []}
        gone = known["rows"] and not Run(run_path).weights_file(BASE).exists()
        ready = tuned(entry.image, entry.text, run_path, self.model, self.recipe, self.how)
        try:
            pictures = sampled(ready, self.items, self.how)
        except ArtifactError:
            if not gone:
                raise
            # Trained once more after it was discarded, its last bits may be others: the images are then, too.
            pictures, known = sampled(ready, self.items, self.how, force=True), {"rows": []}
        paths = {item: pictures.path(item) for item in self.items}
        clip = self.aligner(ready.record.model.source)
        table = score(paths, ready.image, entry.text, clip, nobody)
        table.save(pictures.folder / "metrics.csv")
        if self.discard:
            for level in ready.record.levels():
                files.remove(ready.run.weights_file(level))
        rows = [{"eta": eta, "seed": seed, **row} for (eta, seed), row in table.rows.items()]
        # Of another grid, with the same photograph, text and settings.
        rows += [
            row for row in known["rows"] if (row["eta"], row["seed"]) not in table.rows and row.keys() == rows[0].keys()
        ]
        return {
            "text": entry.text,
            "photograph": _digest(entry.image),
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


def summary(folder: Path, entries: Sequence[Entry], items: Sequence[Item]) -> Summary:
    """What the results of a list say together.

    Args:
        folder: of the evaluation.
        entries: the list; what else is in the folder, and edits that are not done yet, do not count.
        items: which images of each edit count.

    Raises:
        SomeFailedError: there are failures alone.
        InputError: there are no results, or they were measured with different networks, which may not be averaged.
    """
    found = {entry.name: _result(folder, entry, items) for entry in entries}
    results = {name: _cut(result, items) for name, result in found.items() if result is not None}
    failed = {name: _read(folder / "failures" / f"{name}.json", _FAILURE) for name in found if name not in results}
    failures = {name: failure for name, failure in failed.items() if failure is not None}
    if not results and failures:
        name, first = next(iter(failures.items()))
        told = f"{folder} holds no results; {name}: {first['message']}"
        raise SomeFailedError(first["code"], told, f"all are in {folder / 'failures'}")
    if not results:
        raise InputError(f"{folder} holds no results")
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


def _result(folder: Path, entry: Entry, items: Sequence[Item]) -> dict[str, Any] | None:
    # Of this photograph and text, with all of these images; of another grid it is other work, though the images that
    # are there are not made again.
    found = _read(folder / "results" / f"{entry.name}.json", _RESULT)
    if found is None or found["text"] != entry.text or _digest(entry.image) not in {found.get("photograph"), None}:
        return None
    return found if {(row["eta"], row["seed"]) for row in found["rows"]} >= set(items) else None


def _read(path: Path, names: set[str]) -> dict[str, Any] | None:
    # A damaged one is made again: its images are there.
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= names else None


def _cut(result: dict[str, Any], items: Sequence[Item]) -> dict[str, Any]:
    return result | {"rows": [row for row in result["rows"] if (row["eta"], row["seed"]) in set(items)]}


def _digest(image: Path) -> str | None:
    # Of the file; None where it is away, which is no change.
    try:
        return hashlib.sha256(image.read_bytes()).hexdigest() if image.is_file() else None
    except OSError:
        return None
