"""`imagic ablate`: the paper's ablations of a run, each with its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from imagic_cli import files
from imagic_cli.backends.source import Model
from imagic_cli.config import How
from imagic_cli.errors import UsageError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.scoring import score
from imagic_cli.evaluation.silent import replaceable
from imagic_cli.events import Listener
from imagic_cli.names import BASE, plural
from imagic_cli.record import Record
from imagic_cli.resolve import sampling_settings
from imagic_cli.run import Run
from imagic_cli.sheet import contact_sheet
from imagic_cli.stages.finetune import finetune
from imagic_cli.stages.generate import generate
from imagic_cli.stages.optimize import optimize
from imagic_cli.stages.pictures import Pictures
from imagic_cli.sweep import Item

_CONDITIONS = {"pretrained": "pretrained", "target": "tuned at e_tgt", "optimized": "tuned at e_opt"}


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
    return _figure(run, "finetune", {name: _read(each, items) for name, each in rows.items()}, items, record.text)


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
        with replaceable(part):
            optimize(part, shorter, image, model, how, False, tell)
            finetune(part, shorter, model, shorter.levels(), how, False, tell)
            made = generate(part, part.read_record(), model, record.generate, items, how, False, tell)
        rows[plural(count, "step")] = made
    return _figure(run, "optimize", {name: _read(each, items) for name, each in rows.items()}, items, record.text)


def super_resolution(
    run: Run, record: Record, model: Model, items: Sequence[Item], clip: ClipScore | None, how: How, tell: Listener
) -> list[Path]:
    """What a cascade has above its base pretrained, tuned at e_tgt, and tuned at e_opt, all above one tuned base.

    The paper tunes it at e_tgt (section 3.3). Each way has a run directory of its own inside the run, which begins with
    what the run has, and goes on there when it is stopped.

    Returns:
        The figure, whose first row is the base, enlarged; then a table of figures for each of the other rows.

    Raises:
        UsageError: the model has no super-resolution that is tuned.
        ImagicError: a stage is refused, stopped or fails.
    """
    if not record.above:
        raise UsageError(f"{record.model_name} has no super-resolution to ablate", "a cascade has, such as --model if")
    finetune(run, record, model, (BASE,), how, False, tell)
    photo = run.read_image()

    def sampled(part: Run, size: int) -> Pictures:
        sampling = sampling_settings(record, {"size": size}, how)
        return generate(part, part.read_record(), model, sampling, items, how, False, tell)

    small = [each.resize(photo.size, Image.Resampling.NEAREST) for each in _read(sampled(run, record.sizes[0]), items)]
    rows, tables = {"base": small}, []
    folder = files.inner_folder(run.path, "ablations")
    for name, label in _CONDITIONS.items():
        part = Run(folder / f"super-resolution-{name}")
        above = {level: each.model_copy(update={"condition": name}) for level, each in record.above.items()}
        tuned = record if name == "pretrained" else record.model_copy(update={"above": above})
        part.make()
        with part.locked():
            part.write_record(tuned.model_copy(update={"history": {}}))
            for file in (run.image_file, run.embeddings_file, run.weights_file(BASE)):
                files.commit_bytes(part.path / file.name, file.read_bytes())
        with replaceable(part):
            finetune(part, tuned, model, (BASE,) if name == "pretrained" else tuned.levels(), how, False, tell)
            pictures = sampled(part, record.sizes[len(record.above)])
        rows[label] = _read(pictures, items)
        tables.append(folder / f"super-resolution-{name}.csv")
        paths = {item: pictures.path(item) for item in items}
        score(paths, photo, record.text, clip, tell).save(tables[-1])
    return [_figure(run, "super-resolution", rows, items, record.text), *tables]


def _figure(run: Run, name: str, rows: dict[str, list[Image.Image]], items: Sequence[Item], text: str) -> Path:
    labels = [f"eta {eta}, seed {seed}" for eta, seed in items]
    sheet = contact_sheet(list(rows.values()), labels, list(rows), text)
    path = files.inner_folder(run.path, "ablations") / f"{name}.png"

    def save(temporary: Path) -> None:
        sheet.save(temporary, format="PNG")

    files.commit(path, save)
    return path


def _read(pictures: Pictures, items: Sequence[Item]) -> list[Image.Image]:
    return [_picture(pictures.path(item)) for item in items]


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
