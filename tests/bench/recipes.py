"""Which recipe of stages A and B edits drawn scenes best for its time: the paper's beside faster ones.

    python tests/bench/recipes.py --work FOLDER [--pairs N] [--recipe NAME ...]

Every recipe edits the same scenes of the benchmark with the bundled model, sampler and guidance, by texts as bare as
the paper's. Written as a table; what it shows is said above it. What is done is kept in the folder and not done again,
unless the recipe has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from imagic_cli.backends.source import BUNDLED_CLIP
from imagic_cli.config import How, ModelFlags
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.intervals import bootstrap
from imagic_cli.evaluation.silent import Recipe, sampled, tuned
from imagic_cli.evaluation.table import markdown
from imagic_cli.presets import load_preset
from imagic_cli.sketchbook.bench import Panel, Score, Try
from imagic_cli.sketchbook.judge import load
from imagic_cli.sketchbook.pairs import pair
from imagic_cli.sketchbook.scenes import SIZE

ETAS, SEEDS = ("0.600", "0.700", "0.800", "1.000"), 4
FLOOR = 20.0
ABOUT = """# Recipes beside each other

Written by `make recipes`. {pairs} scenes of `imagic bench sketchbook`, each edited with the bundled model by every
recipe that has a line, at eta {etas} with {seeds} seeds. Best: some picture of a scene's {pictures} is right by the
judge, also where what had to stay is kept to {floor:g} dB; one: a picture is. Kept: how near to the input the best one
is outside the edit. In brackets 95 % intervals over the scenes. The last column is processor time of one machine: for
comparing rows."""


def a(steps: int, rate: float, batch: int = 8) -> dict[str, Any]:
    """Stage A's numbers."""
    return {"steps": steps, "learning_rate": rate, "batch": batch}


def b(steps: int, rate: float, batch: int = 8, method: str | None = None) -> dict[str, Any]:
    """Stage B's numbers."""
    return a(steps, rate, batch) | ({"method": method} if method else {})


RECIPES = {
    "paper": (a(1000, 2e-3, 1), b(1500, 5e-7, 1)),
    # What is not told is the preset's.
    "preset": ({}, {}),
    "half the steps": (a(20, 4e-2), b(20, 5e-5)),
    "a quarter of the steps": (a(10, 8e-2), b(10, 1e-4)),
    "A farther": (a(40, 6e-2), b(40, 5e-5)),
    "B stronger": (a(40, 2e-2), b(40, 1e-4)),
    "batch 1, as many draws": (a(320, 7e-3, 1), b(320, 1e-5, 1)),
    "keys and values": (a(40, 2e-2), b(40, 1e-3, method="kv")),
    "LoRA": (a(40, 2e-2), b(40, 1e-3, method="lora")),
}


def settings(name: str) -> dict[str, dict[str, Any]]:
    """What a recipe comes to, with the preset's numbers where it says none."""
    preset, (first, then) = load_preset("sketchbook"), RECIPES[name]
    usual = {"A": preset.optimize.model_dump(mode="json"), "B": preset.finetune.model_dump(mode="json")}
    return {"A": usual["A"] | first, "B": usual["B"] | then}


def edited(name: str, number: int, panel: Panel) -> dict[str, Any]:
    """One scene by one recipe: the processor time of A and B, seconds, and the score of every picture."""
    first, then = RECIPES[name]
    edit, how = pair(number), How(batch_size=8)
    with TemporaryDirectory() as place:
        picture = Path(place) / "before.png"
        edit.before.draw().save(picture)
        recipe = Recipe({"size": SIZE}, first, then, {})
        began = time.process_time()
        ready = tuned(picture, edit.text, Path(place) / "run", ModelFlags("sketchbook"), recipe, how)
        seconds = time.process_time() - began
        items = [(eta, seed) for eta in ETAS for seed in range(SEEDS)]
        pictures = sampled(ready, items, how)
        made = []
        for eta, seed in items:
            with Image.open(pictures.path((eta, seed))) as image:
                made.append(Try(name, float(eta), seed, image.convert("RGB")))
    made_by = {"settings": settings(name), "text": edit.text, "seconds": seconds}
    return made_by | {"scores": [asdict(each) for each in panel.scores(edit, made)]}


def numbers(name: str) -> str:
    """A recipe's settings, for the table."""
    return ", ".join(
        f"{stage} {each['steps']} x {each['batch']} at {each['learning_rate']:g}"
        for stage, each in settings(name).items()
    )


def row(name: str, found: list[dict[str, Any]]) -> Iterator[str]:
    """A line of the table."""
    tries = [[Score(**score) for score in each["scores"]] for each in found]
    best = [max(each, key=lambda score: (score.success, score.answer_psnr)) for each in tries]
    yield name
    yield numbers(name)
    for values in (
        [100.0 * any(score.success for score in each) for each in tries],
        # NaN, where nothing has to be kept, is above every floor.
        [100.0 * any(score.success and not score.kept_psnr < FLOOR for score in each) for each in tries],
        [100.0 * sum(score.success for score in each) / len(each) for each in tries],
        [score.kept_psnr for score in best if not math.isnan(score.kept_psnr)],
    ):
        mean = bootstrap(values)
        yield mean.told(".0f")
    yield f"{sum(each['seconds'] for each in found) / len(found):.0f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="only these (may be repeated)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    panel = Panel(load(), ClipScore(BUNDLED_CLIP))
    head = (
        "recipe",
        "steps x batch at a rate",
        "best, %",
        f"best at {FLOOR:g} dB, %",
        "one, %",
        "kept by the best, dB",
        "A and B, s of a core",
    )
    lines = []
    for name in given.recipe or RECIPES:
        found = []
        for number in range(given.pairs):
            path = given.work / f"{name.replace(' ', '-')}-{number:04d}.json"
            if not path.exists() or json.loads(path.read_text())["settings"] != settings(name):
                path.write_text(json.dumps(edited(name, number, panel), indent=1))
                sys.stderr.write(f"{path.name}\n")
            found.append(json.loads(path.read_text()))
        lines.append(row(name, found))
    etas, pictures = ", ".join(f"{float(eta):g}" for eta in ETAS), len(ETAS) * SEEDS
    about = ABOUT.format(pairs=given.pairs, etas=etas, seeds=SEEDS, pictures=pictures, floor=FLOOR)
    sys.stdout.write("\n".join([about, "", *markdown(head, lines)]) + "\n")


if __name__ == "__main__":
    main()
