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
from imagic_cli.errors import ArtifactError, ImagicError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.scoring import aligner, score
from imagic_cli.evaluation.settings import keep_to
from imagic_cli.evaluation.silent import Recipe, nobody, replaceable, resolved, sampled, tuned
from imagic_cli.evaluation.summary import Entry, result
from imagic_cli.events import Listener, Note
from imagic_cli.names import BASE
from imagic_cli.resolve import check_model
from imagic_cli.run import Run
from imagic_cli.signals import continued
from imagic_cli.sweep import Item


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
        self._forget_changed(entries)
        todo = [entry for entry in entries if result(self.folder, entry, self.items) is None]
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

    def _forget_changed(self, entries: Sequence[Entry]) -> None:
        # Here, where a photograph is one of a shard's, and not where all results of a list are read.
        for entry in entries:
            known = result(self.folder, entry, ())
            if known is not None and _digest(entry.image) not in {known.get("photograph"), None}:
                files.remove(self.folder / "results" / f"{entry.name}.json")

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
        known = result(self.folder, entry, ()) or {"rows": []}
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


def _digest(image: Path) -> str | None:
    # Of the file; None where it is away, which is no change.
    try:
        return hashlib.sha256(image.read_bytes()).hexdigest() if image.is_file() else None
    except OSError:
        return None
