"""What a study shows: each method's result for the edits that were asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from imagic_cli.errors import InputError
from imagic_cli.manifest import Pair
from imagic_cli.photo import quoted

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}


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


def _told(pair: Pair) -> str:
    return f"{pair.image.name!r} with {pair.text!r}"


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
