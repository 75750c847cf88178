"""What a command would do and cost, counted on the model's own graph without its weights."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imagic_cli import backends
from imagic_cli.backends.base import Blank
from imagic_cli.backends.source import Model
from imagic_cli.config import TrainSettings
from imagic_cli.precision import DTYPES
from imagic_cli.record import Record

# Networks of convolutions and attention reach about this part of the rate of one large matrix product.
_EFFICIENCY = 0.5
_MOMENTS = 2


@dataclass(frozen=True)
class Cost:
    """One stage's estimate.

    Attributes:
        stage: its name.
        work: what it does, in words.
        flop: floating point operations in all.
        seconds: at the rate measured now; the right order of magnitude, no more.
        memory: peak bytes of weights, gradients, moments and activations.
        disk: peak bytes in the run directory, checkpoint included.
    """

    stage: str
    work: str
    flop: float
    seconds: float
    memory: int
    disk: int


def costs(record: Record, model: Model, stages: list[str], images: int, device: torch.device) -> list[Cost]:
    """Estimate each of `stages` at the recorded settings; `images` is how many stage C makes."""
    backend = backends.load(model)
    blank = backend.blank(record.image.width, record.image.height)
    parameters = sum(each.numel() for each in blank.level.module.parameters())
    found = []
    for stage in stages:
        settings = getattr(record, stage)
        dtype = DTYPES[settings.dtype]
        if isinstance(settings, TrainSettings):
            trained = parameters if stage == "finetune" else sum(t.numel() for t in blank.embedding.tensors().values())
            flop, activations = _step(blank, settings.batch, everything=stage == "finetune")
            flop *= settings.steps
            # fp32 master weights, gradients and moments of what is trained, and the frozen rest.
            memory = trained * 4 * (2 + _MOMENTS) + (0 if stage == "finetune" else parameters * dtype.itemsize)
            disk = 2 * trained * 4 * (1 + _MOMENTS)
            work = f"{settings.steps} steps of {settings.optimizer} at {settings.learning_rate}, {settings.dtype}"
        else:
            one, activations = _step(blank, 1, everything=None)
            guided = 2 if settings.guidance > 1 else 1
            flop = one * guided * settings.steps * images
            memory, disk = parameters * 4, images * blank.clean.numel() * 8
            work = f"{images} images, {settings.steps} steps of {settings.scheduler} at guidance {settings.guidance}"
        seconds = flop / (_rate(device, dtype) * _EFFICIENCY)
        found.append(Cost(stage, work, flop, seconds, memory + activations * dtype.itemsize // 4, disk))
    return found


def _step(blank: Blank, batch: int, everything: bool | None) -> tuple[float, int]:
    # Operations of one forward (and, unless None, backward), and fp32 bytes that autograd keeps between the two.
    level, embedding = blank.level, blank.embedding
    level.module.requires_grad_(bool(everything))
    if everything is False:
        embedding = embedding.leaves()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    timestep = torch.zeros(batch, dtype=torch.long, device="meta")
    clean = blank.clean.expand(batch, *blank.clean.shape[1:])
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        prediction = level.predict(clean, timestep, embedding.expand(batch))
        if everything is not None:
            prediction.sum().backward()
    return float(counter.get_total_flops()), sum(kept.values()) or prediction.numel() * 4


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    # Operations per second of a matrix product, best of a few: the machine may be doing other things.
    side = 2048 if device.type == "cuda" else 768
    factor = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (factor @ factor)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
