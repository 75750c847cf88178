"""What several commands do: check what was typed before anything heavy is imported, then call the stages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagic_cli import files
from imagic_cli.cli.report import Report
from imagic_cli.config import (
    FinetuneSettings,
    How,
    ModelFlags,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    override,
)
from imagic_cli.errors import UsageError
from imagic_cli.run import Run, remember
from imagic_cli.sweep import parse_etas, parse_seeds

if TYPE_CHECKING:
    from imagic_cli.backends.source import Model
    from imagic_cli.resolve import Edit
    from imagic_cli.run import Record

Flags = Mapping[str, Any]
Item = tuple[str, int]


def how(**flags: object) -> How:
    """How to compute, from flags."""
    return override(How(), flags)


def center(text: str | None) -> tuple[float, float] | None:
    """Two fractions from 'x,y'.

    Raises:
        UsageError: it is not that.
    """
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--center {text!r} is not two fractions", "such as --center 0.5,0.3") from None
    return x, y


def items(eta: str, first: int, count: int, output: Path | None) -> list[Item]:
    """Each eta with each seed.

    Raises:
        UsageError: they cannot be meant, or are several for one output file.
    """
    found = [(each, seed) for each in parse_etas(eta) for seed in parse_seeds(first, count)]
    if output is not None and len(found) > 1:
        raise UsageError(f"--output takes one image, these are {len(found)}", "they are in the run's images folder")
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(f"--output {output} must end in .png")
    return found


def new_edit(
    image: Path | None,
    text: str | None,
    run: Path | None,
    model: ModelFlags,
    photo: Flags,
    train: Flags,
    how: How,
    report: Report,
) -> Edit:
    """Resolve what stage A was told; see `imagic_cli.resolve.new_edit`."""
    override(PhotoSettings(), photo)
    override(OptimizeSettings(), train)
    from imagic_cli import resolve

    _quiet_libraries()
    return resolve.new_edit(image, text, run, model, photo, train, how, report)


def optimize(edit: Edit, how: How, force: bool, report: Report) -> None:
    """Stage A, and its run is the one last used."""
    from imagic_cli.stages.optimize import optimize as work

    work(edit.run, edit.record, edit.image, edit.model, how, force, report)
    remember(edit.run.path)


def tuned_record(run: Run, flags: Flags, how: How) -> tuple[Record, Model]:
    """What stage B works from, with its flags in it."""
    recorded = run.read_record()
    override(FinetuneSettings(), flags)
    from imagic_cli.resolve import finetune_record, recorded_model

    _quiet_libraries()
    record = finetune_record(recorded, flags, how)
    return record, recorded_model(run, record, how)


def finetune(run: Run, record: Record, model: Model, how: How, force: bool, report: Report) -> None:
    """Stage B."""
    from imagic_cli.stages.finetune import finetune as work

    work(run, record, model, how, force, report)
    remember(run.path)


def sampling(run: Run, flags: Flags, how: How) -> tuple[Record, Model, SamplingSettings]:
    """What stage C works from."""
    record = run.read_record()
    override(SamplingSettings(), flags)
    from imagic_cli.resolve import recorded_model, sampling_settings

    _quiet_libraries()
    settings = sampling_settings(record, flags, how)
    return record, recorded_model(run, record, how), settings


def generate(
    run: Run,
    record: Record,
    model: Model,
    sampling: SamplingSettings,
    items: Sequence[Item],
    how: How,
    force: bool,
    output: Path | None,
    report: Report,
) -> None:
    """Stage C; prints the image, or the contact sheet of several."""
    from imagic_cli.stages.generate import generate as work

    pictures = work(run, record, model, sampling, items, how, force, report)
    remember(run.path)
    if output is not None:
        files.commit_bytes(output, pictures.path(items[0]).read_bytes())
    for item in items:
        report.result(pictures.path(item), "image")
    if len(items) > 1:
        report.result(pictures.sheet(items), "sheet")


def _quiet_libraries() -> None:
    # Their bars and notes would tear ours; what a user must know is raised or told by us.
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
