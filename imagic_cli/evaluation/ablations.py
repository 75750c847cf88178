"""`imagic ablate`: the paper's ablations of a run, each with its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from imagic_cli import files
from imagic_cli.backends.source import Model
from imagic_cli.config import How
from imagic_cli.events import Listener
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.sheet import contact_sheet
from imagic_cli.stages.finetune import finetune
from imagic_cli.stages.generate import generate
from imagic_cli.stages.optimize import optimize
from imagic_cli.stages.pictures import Pictures
from imagic_cli.sweep import Item


def without_finetuning(
    run: Run, record: Record, model: Model, etas: Sequence[str], seed: int, how: How, tell: Listener
) -> Path:
    """The pretrained model's images above the fine-tuned one's, over eta at one seed (the paper's figure 7).

    Returns:
        Where the figure is.

    Raises:
        ImagicError: stage C is refused, stopped or fails.
    """
    items = [(eta, seed) for eta in etas]
    rows = {}
    for name, pretrained in (("pretrained", True), ("fine-tuned", False)):
        sampling = record.generate.model_copy(update={"pretrained": pretrained})
        rows[name] = generate(run, record, model, sampling, items, how, False, tell)
    return _figure(run, "finetune", rows, items, record.text)


def lengths(
    run: Run, record: Record, model: Model, steps: Sequence[int], items: Sequence[Item], how: How, tell: Listener
) -> Path:
    """Images after stages A of several lengths, each followed by a stage B of its own (section 4.4).

    Every length has a run directory of its own inside the run, and goes on there when it is stopped.

    Returns:
        Where the figure is.

    Raises:
        ImagicError: a stage is refused, stopped or fails.
    """
    image = run.read_image()
    rows = {}
    for count in steps:
        part = Run(files.inner_folder(run.path, "ablations") / f"optimize-{count:05d}")
        shorter = record.model_copy(
            update={"optimize": record.optimize.model_copy(update={"steps": count}), "history": {}}
        )
        optimize(part, shorter, image, model, how, False, tell)
        finetune(part, part.read_record(), model, shorter.levels(), how, False, tell)
        rows[f"{count} steps"] = generate(part, part.read_record(), model, record.generate, items, how, False, tell)
    return _figure(run, "optimize", rows, items, record.text)


def _figure(run: Run, name: str, rows: dict[str, Pictures], items: Sequence[Item], text: str) -> Path:
    cells = [[_read(pictures.path(item)) for item in items] for pictures in rows.values()]
    sheet = contact_sheet(cells, [f"eta {eta}, seed {seed}" for eta, seed in items], list(rows), text)
    path = files.inner_folder(run.path, "ablations") / f"{name}.png"

    def save(temporary: Path) -> None:
        sheet.save(temporary, format="PNG")

    files.commit(path, save)
    return path


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
