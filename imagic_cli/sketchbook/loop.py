"""The training loop of the bundled model: resumable, seeded by step, stopped by the clock or by its last step."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from imagic_cli.sketchbook.muon import Muon

log = logging.getLogger("sketchbook")


Drawn = TypeVar("Drawn")


class Lesson(Protocol[Drawn]):
    """What one network has to learn: the loop knows nothing else of it."""

    @property
    def name(self) -> str: ...

    @property
    def network(self) -> nn.Module: ...

    def draw(self, rng: torch.Generator) -> Drawn:
        """One step's batch, on the CPU; every random choice comes from `rng`. May run in another process."""

    def loss(self, drawn: Drawn) -> torch.Tensor:
        """The loss of a batch."""

    def measure(self, network: nn.Module) -> dict[str, float]:
        """Held-out figures of `network`, by name."""

    def picture(self, network: nn.Module) -> Image.Image:
        """A grid that shows a person how good `network` is."""


@dataclass(frozen=True)
class Pace:
    """How long and how fast to train.

    The rate warms up over `warmup` steps, stays at `rate`, and falls to zero over the last `tail` of `steps`.
    """

    steps: int
    rate: float
    minutes: float = math.inf
    warmup: int = 200
    tail: int = 0
    ema: float = 0.999
    checkpoint_minutes: float = 10.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        left = self.steps - step
        fall = 0.5 - 0.5 * math.cos(math.pi * left / self.tail) if left < self.tail else 1.0
        return self.rate * min(1.0, (step + 1) / self.warmup) * fall


def generator(*purpose: object) -> torch.Generator:
    """A CPU generator seeded by a hash of `purpose`: a resumed run needs no state to draw the same numbers."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


# What each optimizer keeps for one weight, beside the number of its steps.
MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    Muon: ("momentum",),
}
# Weights whose rows are looked up, or that face pictures and latents, are no mixing of features: Adam trains them.
FOR_ADAM = ("embedding", "shared", "relative_attention_bias", "conv_in", "conv_out", "quant_conv")


@dataclass
class Memory:
    """All that a run must keep to go on: what `save` writes and `load` restores, bit for bit."""

    network: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    ema: dict[str, torch.Tensor]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, network: nn.Module, pace: Pace) -> Memory:
        """Muon for the weights that mix features, AdamW for the rest."""
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in network.named_parameters():
            if p.requires_grad:
                mixes = p.ndim >= 2 and not any(part in name for part in FOR_ADAM)
                (hidden if mixes else rest).append(p)
        optimizers = (
            Muon(hidden, lr=pace.rate),
            torch.optim.AdamW(rest, lr=pace.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        )
        return cls(network, optimizers, {name: p.detach().clone() for name, p in network.named_parameters()})

    def _states(self) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
        """Every trained weight with its name and the optimizer that keeps its moments."""
        names = {p: name for name, p in self.network.named_parameters()}
        for optimizer in self.optimizers:
            for p in optimizer.param_groups[0]["params"]:
                yield names[p], p, optimizer

    def save(self, path: Path) -> None:
        """Writes the checkpoint beside `path` and moves it there in one step; no reader sees half a file."""
        tensors: dict[str, torch.Tensor] = {f"network.{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.items()}
        for name, p, optimizer in self._states():
            tensors |= {f"{moment}.{name}": optimizer.state[p][moment] for moment in MOMENTS[type(optimizer)]}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"progress": json.dumps({"step": self.step, "seconds": self.seconds})})
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Takes the checkpoint at `path` up. Raises ValueError when it belongs to another network."""
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            parameters = dict(self.network.named_parameters())
            wanted = {f"{kind}.{name}" for name in parameters for kind in ("network", "ema")}
            wanted |= {f"{moment}.{name}" for name, _, opt in self._states() for moment in MOMENTS[type(opt)]}
            if set(file.keys()) != wanted:
                raise ValueError(f"{path} is a checkpoint of another network")
            self.step, self.seconds = progress["step"], progress["seconds"]
            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(f"network.{name}"))
                self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
            for name, parameter, optimizer in self._states():
                moments = {moment: torch.empty_like(parameter) for moment in MOMENTS[type(optimizer)]}
                for moment, value in moments.items():
                    value.copy_(file.get_tensor(f"{moment}.{name}"))
                count = torch.tensor(float(self.step), device=parameter.device)
                optimizer.state[parameter] = {"step": count, **moments}


def load_average(network: nn.Module, path: Path) -> dict[str, float]:
    """Puts a checkpoint's averaged weights into `network`; returns {"step", "seconds"}. Raises FileNotFoundError."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train that network first")
    with safe_open(path, "pt") as file:
        for name, parameter in network.named_parameters():
            parameter.data.copy_(file.get_tensor(f"ema.{name}"))
        progress: dict[str, float] = json.loads(file.metadata()["progress"])
    return progress


@dataclass(frozen=True)
class _Batches(Dataset[Drawn]):
    """The batch of every step, by its number."""

    lesson: Lesson[Drawn]
    pace: Pace

    def __getitem__(self, step: int) -> Drawn:
        return self.lesson.draw(generator(self.pace.seed, self.lesson.name, step))


def batches(lesson: Lesson[Drawn], pace: Pace, start: int = 0, workers: int = 0) -> Iterable[Drawn]:
    """The batches of the steps from `start` on, drawn ahead by so many processes, or as they are wanted."""
    steps = range(start, pace.steps)
    found: DataLoader[Drawn] = DataLoader(
        _Batches(lesson, pace),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        # What a lesson holds, perhaps a network on a GPU, cannot be sent to a process; drawing leaves it alone.
        multiprocessing_context="fork" if workers else None,
    )
    return found


def train(lesson: Lesson[Drawn], folder: Path, pace: Pace, workers: int = 0) -> Memory:
    """Trains `lesson` until its last step or its minutes are over, and leaves in `folder` its checkpoint and grids.

    A checkpoint already there is taken up. Equal seed, steps and threads give equal weights, resumed or not, however
    many `workers` draw ahead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{lesson.name}.safetensors"
    memory = Memory.fresh(lesson.network, pace)
    if path.exists():
        memory.load(path)
    log.info("%s: from step %d of %d", lesson.name, memory.step, pace.steps)
    began = saved = shown = time.monotonic()
    before, total, count = memory.seconds, torch.zeros(()), 0
    for drawn in batches(lesson, pace, memory.step, workers):
        if time.monotonic() - began >= pace.minutes * 60:
            break
        # Read only when it is told: a GPU is not waited for at every step.
        total = total + advance(lesson, memory, pace, drawn)
        count += 1
        now = time.monotonic()
        memory.seconds = before + now - began
        if now - shown > 30:
            log.info(
                "%s: step %d loss %.5f, %.2f steps/s", lesson.name, memory.step, total / count, count / (now - shown)
            )
            shown, total, count = now, torch.zeros(()), 0
        if now - saved > pace.checkpoint_minutes * 60:
            memory.save(path)
            _show(lesson, memory, folder)
            saved = shown = time.monotonic()
            total, count = torch.zeros(()), 0
    memory.save(path)
    _show(lesson, memory, folder)
    return memory


def advance(lesson: Lesson[Drawn], memory: Memory, pace: Pace, drawn: Drawn) -> torch.Tensor:
    """One step of the optimizers and of the average; returns the loss before it."""
    loss = lesson.loss(drawn)
    memory.network.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(memory.network.parameters(), 1.0)
    for optimizer in memory.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = pace.rate_at(memory.step)
        optimizer.step()
    memory.step += 1
    # The average forgets faster at first, so that it does not keep the untrained weights.
    decay = min(pace.ema, (1 + memory.step) / (10 + memory.step))
    with torch.no_grad():
        named = dict(memory.network.named_parameters())
        torch._foreach_lerp_(list(memory.ema.values()), [named[name] for name in memory.ema], 1 - decay)
    return loss.detach()


def _show(lesson: Lesson[Drawn], memory: Memory, folder: Path) -> None:
    """Logs the figures and saves the grid of the averaged weights, which are what is exported."""
    kept = {name: p.detach().clone() for name, p in memory.network.named_parameters()}
    with torch.no_grad():
        for name, parameter in memory.network.named_parameters():
            parameter.copy_(memory.ema[name])
        memory.network.eval()
        figures = lesson.measure(memory.network)
        lesson.picture(memory.network).save(folder / f"{lesson.name}.png")
        memory.network.train()
        for name, parameter in memory.network.named_parameters():
            parameter.copy_(kept[name])
    said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    log.info("%s: step %d, %.2f h: %s", lesson.name, memory.step, memory.seconds / 3600, said)
    record = {"step": memory.step, "hours": memory.seconds / 3600, **figures}
    with (folder / f"{lesson.name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
