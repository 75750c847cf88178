"""Lists of edits: photographs, what each one's edited picture shows, and the pictures that a method made of them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagic_cli.errors import InputError
from imagic_cli.photo import quoted

_TEDBENCH = "input_list.json"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}


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
        InputError: it is none of these or not there, a line of it cannot be used, or there is no pair in it.
    """
    if not path.exists():
        raise InputError(f"{quoted(path)}: there is no such file or folder")
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


def results(folder: Path, pairs: Sequence[Pair]) -> dict[Pair, Path]:
    """The picture in `folder` that answers each pair; pairs without one are left out.

    A picture belongs to a pair when its path in the folder, but for the ending, is the pair's `name`; or
    `<image>-<text>`, as TEdBench's published results are called; or, where the photograph has one text only, that of
    the photograph. Capitals do not matter, nor which marks or spaces stand between words.

    Raises:
        InputError: there is no such folder, or two pictures answer one pair.
    """
    if not folder.is_dir():
        raise InputError(f"{quoted(folder)} is not a folder of results")
    shown: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file():
            shown.setdefault(_key(path.relative_to(folder).with_suffix("").as_posix()), []).append(path)
    once = Counter(_key(pair.image.stem) for pair in pairs)
    found: dict[Pair, Path] = {}
    for pair in pairs:
        names = [pair.name] if pair.name else [f"{pair.image.name}-{pair.text}", f"{pair.image.stem}-{pair.text}"]
        if not pair.name and once[_key(pair.image.stem)] == 1:
            names += [pair.image.stem, pair.image.name]
        paths = list(dict.fromkeys(path for name in names for path in shown.get(_key(name), [])))
        if len(paths) > 1:
            raise InputError(f"{quoted(paths[0])} and {quoted(paths[1])} are both results for {_told(pair)}")
        if paths:
            found[pair] = paths[0]
    return found


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
        lacking = {"image", "text"}.difference(reader.fieldnames or ("image", "text"))
        if lacking:
            raise ValueError(f"its first line names no column {' or '.join(sorted(lacking))}")
        for entry in reader:
            yield _pair(file, f"line {reader.line_num}", entry)


def _lines(file: Path) -> Iterator[Pair]:
    # Not by splitlines: JSON's strings may hold what that takes for the end of a line.
    for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
        if line.strip():
            yield _pair(file, f"line {number}", _parsed(line, number))


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        # Its own place is within the line.
        raise ValueError(f"line {number}: {error.msg}") from error


def _pair(file: Path, where: str, entry: Any, names: tuple[str, str] = ("image", "text"), folder: str = ".") -> Pair:
    told = entry if isinstance(entry, dict) else {}
    image, text = (str(told.get(name) or "").strip() for name in names)
    if not image or not text:
        raise InputError(f"{quoted(file)}, {where}: no {' and '.join(names)}")
    return Pair(file.parent / folder / image, text, str(told.get("name") or ""))


def _told(pair: Pair) -> str:
    return f"{pair.image.name!r} with {pair.text!r}"


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
