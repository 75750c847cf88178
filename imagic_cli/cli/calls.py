"""The stages as commands call them: what was typed is checked first, and only then anything heavy imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagic_cli import files
from imagic_cli.cli.checks import Flags, says_something
from imagic_cli.cli.report import Report
from imagic_cli.config import (
    AboveSettings,
    How,
    ModelFlags,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    override,
)
from imagic_cli.errors import Interrupted, UsageError
from imagic_cli.events import Note
from imagic_cli.inspection import states
from imagic_cli.locate import remember
from imagic_cli.run import Run
from imagic_cli.sweep import Item

if TYPE_CHECKING:
    from imagic_cli.backends.source import Model
    from imagic_cli.record import Record
    from imagic_cli.resolve import Edit

EVERY_LEVEL = "all"


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
    if image is not None and not says_something(text, "the text"):
        raise UsageError(
            "no text says what the edited picture shows", 'write it behind the photograph: img.png "a sitting dog"'
        )
    for name, value in vars(model).items():
        says_something(value, f"--{name}")
    from imagic_cli import resolve

    return resolve.new_edit(image, text or "", run, model, photo, train, how, report)


def planned(edit: Edit, optimize: Flags, finetune: Flags, generate: Flags, how: How, report: Report) -> Edit:
    """See `imagic_cli.resolve.planned`; that a run keeps other numbers than its preset's is told."""
    from imagic_cli import resolve

    ready = resolve.planned(edit, finetune, generate, how)
    typed = {"optimize": optimize, "finetune": finetune, "generate": generate}
    if edit.run.record_file.is_file() and (own := resolve.own_numbers(ready.record, ready.model, typed)):
        began = f"{edit.run.path} keeps the numbers that it began with"
        report(Note(f"warning: {began} ({', '.join(own)}): another --run takes the preset's"))
    return ready


def optimize(edit: Edit, how: How, force: bool, report: Report) -> None:
    """Stage A, and its run is the one last used, also when it is stopped."""
    from imagic_cli.stages.optimize import optimize as work

    with remembered(edit.run):
        work(edit.run, edit.record, edit.image, edit.model, how, force, report, edit.before)


def tuned_record(run: Run, level: str, flags: Flags, how: How) -> tuple[Record, Model, tuple[str, ...]]:
    """What stage B works from, with its flags in it, and which levels it is to work on.

    Raises:
        UsageError: the run's model has no such level, or a value is out of range.
    """
    recorded = run.read_record()
    override(AboveSettings(), flags)
    levels = recorded.levels() if level == EVERY_LEVEL else (level,)
    if not set(levels) <= set(recorded.levels()):
        known = ", ".join((*recorded.levels(), EVERY_LEVEL))
        raise UsageError(f"--level {level} is none of this run's model", f"there are: {known}")
    from imagic_cli.resolve import finetune_record, recorded_model

    record = finetune_record(recorded, levels, flags, how)
    return record, recorded_model(run, record, how), levels


def finetune(
    run: Run, record: Record, model: Model, levels: Sequence[str], how: How, force: bool, report: Report
) -> None:
    """Stage B."""
    from imagic_cli.stages.finetune import finetune as work

    with remembered(run):
        work(run, record, model, levels, how, force, report)


def sampling(run: Run, flags: Flags, how: How) -> tuple[Record, Model, SamplingSettings]:
    """What stage C works from."""
    record = run.read_record()
    override(SamplingSettings(), flags)
    if not says_something(flags.get("prompt"), "--prompt") and flags.get("prompt") is not None:
        raise UsageError("--prompt is empty", "leave it out for the run's own text")
    says_something(flags.get("negative"), "--negative")
    from imagic_cli.resolve import recorded_model, sampling_settings

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

    with remembered(run):
        pictures = work(run, record, model, sampling, items, how, force, report)
    if output is not None:
        files.commit_bytes(output, pictures.path(items[0]).read_bytes())
    for item in items:
        report.result(pictures.path(item), "image")
    if len(items) > 1:
        report.result(pictures.sheet_file, "sheet")


def plan(
    run: Run,
    record: Record,
    model: Model,
    stages: list[str],
    images: int,
    how: How,
    report: Report,
    levels: Sequence[str] = (),
) -> None:
    """Tell what the stages would do and cost, and do nothing; without `levels` stage B trains all."""
    from imagic_cli.plan import costs
    from imagic_cli.precision import pick_device

    # Images are another matter: those that are there may not be the ones that are asked for.
    found = states(run, record) if run.record_file.is_file() else []
    trained = {state.stage: state for state in found if not state.stage.startswith("generate")}
    report.plan(run, record, costs(record, model, stages, images, pick_device(how.device), levels), trained)


@contextlib.contextmanager
def remembered(run: Run) -> Iterator[None]:
    """While a stage works on it; later commands take this run, where none is named."""
    # A stopped run is the one to go on with; a refused command has begun nothing.
    try:
        yield
    except Interrupted:
        if run.record_file.is_file():
            remember(run.path)
        raise
    remember(run.path)
