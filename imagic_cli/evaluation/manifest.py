"""Lists of edits: a TEdBench folder as published, or CSV or JSON lines with `image` and `text`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagic_cli.errors import InputError
from imagic_cli.names import slug


@dataclass(frozen=True)
class Entry:
    """One edit of a list.

    Attributes:
        name: of its files: its place in the list, the photograph's name and the text.
        image: the photograph.
        text: the target text.
    """

    name: str
    image: Path
    text: str


def read(path: Path) -> list[Entry]:
    """The edits of a list, in its order. Photographs are named from where the list lies.

    Raises:
        InputError: there is no such list, or it names an edit without a photograph or a text; the hint says where.
    """
    try:
        told = list(_told(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", "name a folder, or a .csv or .jsonl file") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not told:
        raise InputError(f"{path} holds no edits")
    return [_entry(path, number, *each) for number, each in enumerate(told, 1)]


def _told(path: Path) -> Iterator[tuple[Path, object, object]]:
    # The folder that photographs are named from, and what is said of each edit.
    if path.is_dir():
        for each in json.loads((path / "input_list.json").read_text(encoding="utf-8")):
            yield path / "originals", *_named(each, "img_name", "target_text")
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            for each in csv.DictReader(file):
                yield path.parent, *_named(each, "image", "text")
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield path.parent, *_named(json.loads(line), "image", "text")
    else:
        raise InputError(f"{path} is no list of edits", "name a TEdBench folder, or a .csv or .jsonl file")


def _named(each: object, image: str, text: str) -> tuple[object, object]:
    return (each.get(image), each.get(text)) if isinstance(each, Mapping) else (None, None)


def _entry(path: Path, number: int, folder: Path, image: object, text: object) -> Entry:
    if not isinstance(image, str) or not image or not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}: edit {number} has no image or no text", "each needs both")
    name = f"{number:04d}-{slug(Path(image).stem, 24)}-{slug(text, 32)}"
    return Entry(name, folder / image, text)
