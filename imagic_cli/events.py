"""What the stages tell while they work; who listens decides how it looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """A stage begins at `done` of `total` steps or images."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """One update is made."""

    stage: str
    step: int
    total: int
    loss: float


@dataclass(frozen=True)
class Probed:
    """The loss over fixed noise and timesteps, comparable between steps."""

    stage: str
    step: int
    loss: float


@dataclass(frozen=True)
class Saved:
    """Progress is on the disk: a kill from here on loses nothing before `step`. On a GPU another thread may tell it."""

    stage: str
    step: int


@dataclass(frozen=True)
class Sampled:
    """One denoising step of a batch of images is made; `part` of the whole call, from 0 to 1."""

    stage: str
    part: float


@dataclass(frozen=True)
class Pictured:
    """One image is on the disk."""

    path: Path
    eta: str
    seed: int
    psnr: float | None
    flagged: bool
    reused: bool


@dataclass(frozen=True)
class Finished:
    """A stage's artifact is on the disk; `reused` when it was already there."""

    stage: str
    path: Path
    reused: bool


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


Event = Started | Stepped | Probed | Saved | Sampled | Pictured | Finished | Note
Listener = Callable[[Event], None]
