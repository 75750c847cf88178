"""What the edits of a list came to, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagic_cli.errors import InputError, SomeFailedError
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.table import Table, preferred_fidelity
from imagic_cli.manifest import Pair
from imagic_cli.names import plural, slug
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
    found = {entry.name: result(folder, entry, items) for entry in entries}
    results = {name: _cut(result, items) for name, result in found.items() if result is not None}
    failed = {name: _read(folder / "failures" / f"{name}.json", _FAILURE) for name in found if name not in results}
    failures = {name: failure for name, failure in failed.items() if failure is not None}
    if not results and failures:
        raise _failed(folder, f"{folder} holds no results", failures)
    if not results:
        raise InputError(f"{folder} holds no results")
    names = [tuple(name for name in each["rows"][0] if name not in {"eta", "seed"}) for each in results.values()]
    if len(set(names)) > 1:
        raise InputError(f"{folder} holds figures of different networks: {', '.join(sorted({str(n) for n in names}))}")
    etas = sorted({row["eta"] for each in results.values() for row in each["rows"]}, key=float)
    curves = {name: {eta: bootstrap(_means(results, name, eta)) for eta in etas} for name in names[0]}
    return Summary(results, failures, curves)


def check_failures(folder: Path, found: Summary, entries: Sequence[Entry]) -> None:
    """End with the first failure, where there is one.

    Args:
        folder: of the evaluation.
        found: its results and failures.
        entries: those that were to be made: what fails elsewhere is no failure of theirs.

    Raises:
        SomeFailedError: some of them failed.
    """
    failures = {entry.name: found.failures[entry.name] for entry in entries if entry.name in found.failures}
    if failures:
        raise _failed(folder, f"{len(failures)} of {plural(len(entries), 'edit')} failed", failures)


def _failed(folder: Path, message: str, failures: Mapping[str, dict[str, Any]]) -> SomeFailedError:
    name, first = next(iter(failures.items()))
    return SomeFailedError(first["code"], f"{message}; {name}: {first['message']}", f"all are in {folder / 'failures'}")


def _means(results: Mapping[str, dict[str, Any]], name: str, eta: str) -> list[float]:
    found = []
    for each in results.values():
        values = [row[name] for row in each["rows"] if row["eta"] == eta]
        if values:
            found.append(sum(values) / len(values))
    return found


def result(folder: Path, entry: Entry, items: Sequence[Item]) -> dict[str, Any] | None:
    """What an edit came to, if it is of this text and has all of these images; else None."""
    found = _read(folder / "results" / f"{entry.name}.json", _RESULT)
    if found is None or found["text"] != entry.text:
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
    wanted = set(items)
    return result | {"rows": [row for row in result["rows"] if (row["eta"], row["seed"]) in wanted]}
