"""`imagic study build`: a folder with a page that asks which of two edits is better."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from imagic_cli import files
from imagic_cli.errors import InputError, UsageError
from imagic_cli.events import Listener, Note
from imagic_cli.image import pixels_digest
from imagic_cli.manifest import Pair, read_pairs, results
from imagic_cli.pages import render
from imagic_cli.pages.previews import reduced
from imagic_cli.photo import quoted, read
from imagic_cli.study.forms import Shown, Study, Trial

# Larger pictures are reduced, whoever made them: all are judged at the same size.
MOST_SIDE = 1024
_IDENTITY = re.compile(r'data-study="([0-9a-f]{16})"')


def build(
    folder: Path, methods: Mapping[str, Path], inputs: Path, seed: int, questions: int | None, tell: Listener
) -> Path:
    """Write the page and its pictures.

    Every two methods that both have a result for a pair make one question. The pictures are copied without metadata
    and called after their pixels, so that no name, size of file or text chunk tells who made them.

    Args:
        folder: where; new, empty, or of this very study.
        methods: the folder of each method's results, by its name.
        inputs: see `read_pairs`.
        seed: of orders and sides.
        questions: how many each rater is asked; None is all.
        tell: is told what is missing.

    Returns:
        The page.

    Raises:
        InputError: a manifest, folder or picture cannot be used, or `folder` holds something else.
        UsageError: no two methods have results for the same pair.
        DiskError: the disk refused.
    """
    pairs = read_pairs(inputs)
    found = {name: results(place, pairs) for name, place in methods.items()}
    for name, answered in found.items():
        if missing := [pair for pair in pairs if pair not in answered]:
            first = f"{missing[0].image.name!r} with {missing[0].text!r}"
            tell(Note(f"warning: {name} has no result for {len(missing)} of {len(pairs)} pairs, such as {first}"))
    asked = [
        (pair, two)
        for pair in pairs
        for two in itertools.combinations(methods, 2)
        if all(pair in found[n] for n in two)
    ]
    if not asked:
        raise UsageError(
            "no two methods have results for the same input", "call results after the input, or <input>-<text>"
        )
    _check_free(folder)
    gallery = _Gallery(folder / "pictures")
    trials = tuple(_trial(number, pair, two, found, gallery) for number, (pair, two) in enumerate(asked))
    study = Study(
        seed=seed, methods=tuple(methods), questions=min(questions or len(trials), len(trials)), trials=trials
    )
    page = folder / "index.html"
    _check_same(page, study)
    gallery.save()
    files.commit_bytes(page, _page(study).encode())
    return page


def _trial(
    number: int, pair: Pair, two: Sequence[str], found: Mapping[str, Mapping[Pair, Path]], gallery: _Gallery
) -> Trial:
    first, second = (Shown(method=name, picture=gallery.take(found[name][pair])) for name in two)
    return Trial(trial=number, text=pair.text, input=gallery.take(pair.image), edits=(first, second))


class _Gallery:
    """The study's own copies of pictures.

    Args:
        folder: where they will lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[Path, str] = {}

    def take(self, path: Path) -> str:
        """The address, relative to the page, of the copy of a picture.

        Raises:
            InputError: it is no picture that can be read.
        """
        if path not in self.names:
            digest = pixels_digest(Image.fromarray(read(path).pixels))
            self.names[path] = f"{digest[:24]}.png"
        return f"{self.folder.name}/{self.names[path]}"

    def save(self) -> None:
        """Write every copy that is not there yet."""
        files.inner_folder(self.folder.parent, self.folder.name)
        for path, name in self.names.items():
            target = self.folder / name
            if not target.exists():
                _save(reduced(Image.fromarray(read(path).pixels), MOST_SIDE), target)


def _save(image: Image.Image, target: Path) -> None:
    def write(temporary: Path) -> None:
        image.save(temporary, format="PNG")

    files.commit(target, write)


def _check_free(folder: Path) -> None:
    if folder.exists() and (
        not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {"index.html", "pictures"}
    ):
        raise InputError(f"{quoted(folder)} holds other files", "name a new or an empty folder with --out")


def _check_same(page: Path, study: Study) -> None:
    # A page that raters have open, or answers that are on their way, would be of another study.
    if page.exists() and _IDENTITY.findall(page.read_text("utf-8", "replace")) != [study.identity]:
        raise InputError(f"{quoted(page.parent)} holds another study", "name another folder with --out")


def _page(study: Study) -> str:
    data = {"id": study.identity, **study.model_dump(mode="json")}
    return render("study", images="'self' file: data:", data=data, study=study)
