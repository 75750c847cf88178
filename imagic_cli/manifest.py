"""Lists of edits: photographs and what each one's edited picture shows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagic_cli.errors import InputError
from imagic_cli.photo import quoted

_TEDBENCH = "input_list.json"


@dataclass(frozen=True)
class Pair:
    """One edit that was asked for.

    Attributes:
        image: the photograph.
        text: what the edited picture shows.
        name: what results are called after, where the manifest says so; else empty.
    """

    image: Path
    text: str
    name: str = ""


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a manifest, in its order.

    Args:
        path: a folder as TEdBench is published (`input_list.json` beside `originals/`), that JSON file, or a `.csv` or
            `.jsonl` file with the columns `image` (relative to the file), `text` and, if wanted, `name`.

    Raises:
        InputError: it is none of these, a line of it cannot be used, or there is no pair in it.
    """
    file = path / _TEDBENCH if path.is_dir() else path
    readers = {".json": _tedbench, ".csv": _table, ".jsonl": _lines}
    if not file.is_file() or file.suffix.lower() not in readers:
        raise InputError(f"{quoted(path)} is no list of inputs", f"a folder with {_TEDBENCH}, or a .csv or .jsonl file")
    try:
        pairs = list(readers[file.suffix.lower()](file))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{quoted(file)} cannot be read: {error}") from error
    if not pairs:
        raise InputError(f"{quoted(file)} names no inputs")
    return pairs


def _tedbench(file: Path) -> Iterator[Pair]:
    entries = json.loads(file.read_text("utf-8"))
    if not isinstance(entries, list):
        raise ValueError("it is not a list")
    for number, entry in enumerate(entries, 1):
        yield _pair(file, f"entry {number}", entry, ("img_name", "target_text"), "originals")


def _table(file: Path) -> Iterator[Pair]:
    # Spreadsheet programs begin their files with a byte order mark.
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        for entry in reader:
            yield _pair(file, f"line {reader.line_num}", entry)


def _lines(file: Path) -> Iterator[Pair]:
    for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), 1):
        if line.strip():
            yield _pair(file, f"line {number}", json.loads(line))


def _pair(file: Path, where: str, entry: Any, names: tuple[str, str] = ("image", "text"), folder: str = ".") -> Pair:
    told = entry if isinstance(entry, dict) else {}
    image, text = (str(told.get(name) or "").strip() for name in names)
    if not image or not text:
        raise InputError(f"{quoted(file)}, {where}: no {' and '.join(names)}")
    return Pair(file.parent / folder / image, text, str(told.get("name") or ""))
