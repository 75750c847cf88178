"""What the reliability groups share: an edit to disturb, what it must end as, and how outcomes are counted."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import toys
from diffusers import UNet2DConditionModel
from drive import digests, done, fork, wait

from imagic_cli import backends
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource

ReportProgress = Callable[[int], None]
"""Told how many of a group's cases are done."""

STAGES = ("optimize", "finetune", "generate")
TEXT = "a bird spreading wings"
_ALL = 10**9
_Case = TypeVar("_Case")


@dataclass
class Outcome:
    """What a group found.

    Attributes:
        wanted: how many cases.
        done: how many ran.
        different: how many ended in other bytes, another code or another message than promised.
        unrecoverable: how many no repetition of the command could bring to an end.
        notes: what else a reader of the report should know.
        failures: the first few of them, in words.
    """

    wanted: int
    done: int = 0
    different: int = 0
    unrecoverable: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that was wanted ran, and as promised."""
        return self.done >= self.wanted and not self.different and not self.unrecoverable

    def count(self, problem: str, case: object) -> None:
        """One more case; `problem` is empty where there is none, and begins with its kind."""
        self.done += 1
        if not problem:
            return
        if problem.startswith("unrecoverable"):
            self.unrecoverable += 1
        else:
            self.different += 1
        if len(self.failures) < 20:
            self.failures.append(f"{case}: {problem}")


Routine = Callable[[int, Path, ReportProgress], Outcome]
"""Run `count` cases in a folder. Where the cases are a closed list, a smaller count takes an even sample of it."""


@dataclass(frozen=True)
class Group:
    """One line of the report.

    Attributes:
        number: as in the list of promises, with a letter where one has several lines.
        title: what is promised.
        wanted: how many cases, or `Group.ALL` of a closed list.
        routine: runs them.
    """

    number: str
    title: str
    wanted: int
    routine: Routine

    ALL = _ALL


class Subject:
    """A small edit, and what it ends as when nobody disturbs it: a command for each of its `stages`.

    What it makes is kept in `folder` and taken from there by the next one with the same measures.

    Args:
        folder: where models and runs go.
        steps: of stages A and B.
        images: of stage C.
        flags: further ones, by stage.
    """

    family = "sd"
    stages = STAGES
    """A stage, or a stage and one of its levels."""

    def __init__(
        self, folder: Path, steps: int = 30, images: int = 5, flags: dict[str, Sequence[object]] | None = None
    ) -> None:
        self.model = folder / "smallest" / self.family
        self.photo = folder / "bird.png"
        if not self.photo.exists():
            folder.mkdir(parents=True, exist_ok=True)
            toys.picture(48).save(self.photo)
        if not self.model.exists():
            self.build()
        self.steps, self.images = steps, images
        self.flags = flags or {"optimize": ["--probe-every", 30], "finetune": ["--probe-every", 30]}
        named = "_".join(str(part) for each in self.flags.values() for part in each).replace("--", "")
        self.home = folder / f"undisturbed-{self.family}-{steps}-{images}-{named}"
        self.seconds: dict[str, float] = {}
        self.after = {stage: self._after(stage) for stage in self.stages}

    def build(self) -> None:
        """Make the model."""
        toys.stable_diffusion(self.model)
        _smallest_unet().save_pretrained(self.model / "unet")

    def command(self, stage: str, run: Path, *extra: object) -> list[object]:
        """A command line."""
        name, _, level = stage.partition(" ")
        steps = ["--steps", 2 if stage == "generate" else self.steps]
        parts: list[object] = [name, *(["--level", level] if level else []), *steps, "--run", run]
        parts += [*self.flags.get(name, ()), *extra]
        if stage == "optimize":
            return [*parts, self.photo, TEXT, "--model", self.model]
        etas = ",".join(f"0.{5 + index}" for index in range(self.images))
        return [*parts, "--eta", etas] if stage == "generate" else parts

    def begin(self, stage: str, run: Path) -> Path:
        """Put a run at `run` that is ready for `stage`."""
        shutil.rmtree(run, ignore_errors=True)
        if stage != self.stages[0]:
            shutil.copytree(self.home / self.stages[self.stages.index(stage) - 1], run)
        return run

    def finish(self, stage: str, run: Path, *extra: object) -> str:
        """Type the stage's command again, as a user would, and compare; the problem, or nothing."""
        code = end(*self.command(stage, run, *extra))
        if code:
            return f"unrecoverable: {stage} ends with code {code}"
        return self.compare(stage, run)

    def compare(self, stage: str, run: Path) -> str:
        """Which files are not as they are after the undisturbed `stage`, or nothing."""
        return compared(self.after[stage], digests(run)) or leftovers(run)

    def _after(self, stage: str) -> dict[str, str]:
        kept, clock = self.home / stage, self.home / f"{stage}.seconds"
        if not clock.exists():
            run = self.begin(stage, self.home / "run")
            begun = time.monotonic()
            code = end(*self.command(stage, run))
            assert code == 0, f"the undisturbed {stage} ends with code {code}"
            shutil.rmtree(kept, ignore_errors=True)
            run.rename(kept)
            clock.write_text(str(time.monotonic() - begun))
        self.seconds[stage] = float(clock.read_text())
        return digests(kept)


class Cascade(Subject):
    """The same on a cascade: each level has a command of its own, and an image goes through three denoisers."""

    family = "cascade"
    stages = ("optimize", "finetune base", "finetune sr16-32", "generate")

    def build(self) -> None:
        """Make the model."""
        toys.cascade(self.model)
        # What forks need is imported here, and not in every one of them.
        backends.load(find(ModelSource(source=str(self.model))))


def _smallest_unet() -> UNet2DConditionModel:
    # Thousands of runs: each step should cost little, and what it trains is beside the point.
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def warm(folder: Path) -> None:
    """Let the libraries import what they import on first use: here, and not in every fork."""
    subject = Subject(folder, steps=2, images=1)
    for stage in STAGES:
        done(*subject.command(stage, folder / "warm", "--force"))


def end(*arguments: object, before: Callable[[], object] = lambda: None) -> int:
    """Run a command line in a fork, to its end; its exit code."""
    return wait(fork(*arguments, before=before))


def heard(path: Path, then: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """For a fork's `before`: what the command says on stderr goes to `path`."""

    def before() -> None:
        sys.stderr = path.open("w", buffering=1)
        then()

    return before


def said(path: Path) -> str:
    """What went there."""
    return path.read_text() if path.exists() else ""


def compared(wanted: dict[str, str], found: dict[str, str]) -> str:
    """Which files differ, or nothing."""
    changed = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return f"different: {', '.join(changed)}" if changed else ""


def leftovers(run: Path) -> str:
    """Temporary files that are still there, or nothing."""
    found = [path.name for path in run.rglob(".*") if path.name != ".lock" and path.is_file()]
    return f"different: {', '.join(found)} left behind" if found else ""


def spread(cases: Sequence[_Case], count: int) -> list[_Case]:
    """`count` of the cases, evenly; all where there are fewer."""
    if count >= len(cases):
        return list(cases)
    return [cases[(2 * index + 1) * len(cases) // (2 * count)] for index in range(count)]


def die() -> None:
    """kill -9 for this process."""
    os.kill(os.getpid(), 9)
