"""The two kinds of failure, found by the figures of `imagic evaluate` among edits whose right answer is known.

    python tests/bench/failures.py --work FOLDER [--pairs N] [--picture FILE]

Edits drawn scenes with the bundled model (resumable), by texts as bare as the paper's, prints which edits the figures
alone take for a failure and what the judge sees in them, and draws the worst of each kind: the input, the picture that
decided, and the true answer.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from imagic_cli.evaluation.failures import KINDS
from imagic_cli.evaluation.table import markdown
from imagic_cli.names import picture_name
from imagic_cli.sketchbook.corpus import tensor
from imagic_cli.sketchbook.judge import agreement, load, truth
from imagic_cli.sketchbook.pairs import Pair, pair

GRID = ("--eta", "0,0.6,0.7,0.8", "--seed", "0:4")
SHOWN = 3


@dataclass(frozen=True)
class Told:
    """An edit, what the figures take it for, the picture that decided, and what the judge sees in the run's pictures.

    Attributes:
        edit: the pair.
        kind: as in edits.csv.
        picture: the one that decided.
        changed: how many of the pictures in the useful range show the change.
        whole: how many of these also show everything else as it was.
        count: of the pictures in the useful range.
    """

    edit: Pair
    kind: str
    picture: Path
    changed: int
    whole: int
    count: int


def evaluated(work: Path, numbers: range) -> Path:
    """The pairs as a list, edited by the installed command; returns its folder."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text"])
        for edit in map(pair, numbers):
            edit.before.draw().save(work / f"{edit.number:04d}.png")
            writer.writerow([f"{edit.number:04d}.png", edit.text])
    command = [Path(sys.executable).with_name("imagic"), "evaluate", work / "pairs.csv", "--out", work / "out", *GRID]
    subprocess.run([*command, "--discard-weights"], check=True)
    return work / "out"


def told(out: Path, numbers: range) -> Iterator[Told]:
    """What edits.csv says of every edit, beside what the judge sees."""
    judge = load()
    with (out / "edits.csv").open(newline="") as file:
        rows = {int(row["edit"].split("-")[0]): row for row in csv.DictReader(file)}
    for place, edit in enumerate(map(pair, numbers), 1):
        if place not in rows:
            continue
        row = rows[place]
        images = out / row["edit"] / "images"
        pictures = [images / picture_name(f"0.{tenth}00", seed) for tenth in (6, 7, 8) for seed in range(4)]
        seen = judge.see(tensor([np.asarray(Image.open(path).convert("RGB")) for path in pictures]))
        right = [agreement(each, truth(edit.after)) for each in seen]
        yield Told(
            edit=edit,
            kind=row["kind"],
            picture=images / picture_name(row["eta"], int(row["seed"])),
            changed=sum(each[edit.field] for each in right),
            whole=sum(all(each.values()) for each in right),
            count=len(right),
        )


def gallery(found: list[Told]) -> Image.Image:
    """For each kind a row of its first edits: input, the picture that decided, true answer; the text below."""
    side, gap = 128, 4
    sheet = Image.new("RGB", (SHOWN * (3 * side + 3 * gap + 12), len(KINDS) * (side + 34)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, kind in enumerate(KINDS):
        for place, each in enumerate([one for one in found if one.kind == kind.name][:SHOWN]):
            left, top = place * (3 * side + 3 * gap + 12), line * (side + 34)
            with Image.open(each.picture) as decided:
                shown = [each.edit.before.draw(), decided.convert("RGB"), each.edit.after.draw()]
            for column, picture in enumerate(shown):
                sheet.paste(picture, (left + column * (side + gap), top))
            draw.text((left, top + side + 4), f"{kind.name}: {each.edit.text}", "black", font_size=14)
    return sheet


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; what is done is not done again")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--first", type=int, default=100, help="number of the first pair")
    parser.add_argument("--picture", type=Path, help="where the gallery goes (default: gallery.png in the folder)")
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.pairs)
    found = list(told(evaluated(given.work, numbers), numbers))
    head = ("kind by the figures", "text", "changed", "changed, rest kept", "of")
    lines = (
        (each.kind, each.edit.text, str(each.changed), str(each.whole), str(each.count))
        for each in sorted(found, key=lambda one: one.kind)
    )
    sys.stdout.write("\n".join(markdown(head, lines)) + "\n")
    gallery(found).save(given.picture or given.work / "gallery.png")


if __name__ == "__main__":
    main()
