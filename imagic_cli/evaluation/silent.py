"""The three stages as programs call them: one edit, nothing told, what is done already not done again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagic_cli.config import How, ModelFlags
from imagic_cli.errors import ArtifactError
from imagic_cli.events import Event
from imagic_cli.resolve import Edit, Flags, new_edit, planned, sampling_settings
from imagic_cli.run import Run
from imagic_cli.stages.finetune import finetune
from imagic_cli.stages.generate import generate
from imagic_cli.stages.optimize import optimize
from imagic_cli.stages.pictures import Pictures
from imagic_cli.sweep import Item


@dataclass(frozen=True)
class Recipe:
    """What is told beside the preset: settings by name, None where nothing is."""

    photo: Flags = field(default_factory=dict)
    optimize: Flags = field(default_factory=dict)
    finetune: Flags = field(default_factory=dict)
    generate: Flags = field(default_factory=dict)


def resolved(image: Path, text: str, folder: Path, model: ModelFlags, recipe: Recipe, how: How) -> Edit:
    """What would be done in the run directory `folder`, with every setting; nothing is done.

    Raises:
        ImagicError: something of it cannot be meant, read or found.
    """
    ready = new_edit(image, text, folder, model, recipe.photo, recipe.optimize, how, nobody)
    return planned(ready, recipe.finetune, recipe.generate, how)


def tuned(image: Path, text: str, folder: Path, model: ModelFlags, recipe: Recipe, how: How) -> Edit:
    """Stages A and B in the run directory `folder`.

    Raises:
        ImagicError: a stage is refused, stopped or fails.
    """
    ready = resolved(image, text, folder, model, recipe, how)
    optimize(ready.run, ready.record, ready.image, ready.model, how, False, nobody, ready.before)
    finetune(ready.run, ready.record, ready.model, ready.record.levels(), how, False, nobody)
    return ready


def sampled(ready: Edit, items: Sequence[Item], how: How, pretrained: bool = False, force: bool = False) -> Pictures:
    """Stage C of a tuned run; `force` replaces samples of other weights.

    Raises:
        ImagicError: it is refused, stopped or fails.
    """
    record = ready.run.read_record()
    sampling = sampling_settings(record, {"pretrained": pretrained or None}, how)
    return generate(ready.run, record, ready.model, sampling, items, how, force, nobody)


@contextlib.contextmanager
def replaceable(run: Run) -> Iterator[None]:
    """Around work in a run that can be made again from what is outside it: a refusal says to remove it."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(error.args[0], f"remove {run.path}, and it is made anew") from error


def nobody(_event: Event) -> None:
    """Listens to nothing."""
