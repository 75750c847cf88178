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
from imagic_cli.config import FinetuneSettings, TrainSettings
from imagic_cli.embedding import Embedding
from imagic_cli.precision import DTYPES
from imagic_cli.record import Record
from imagic_cli.tuning import leaves

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
    found = []
    for stage in stages:
        # A blank of its own for each: stage B may put a LoRA into it.
        blank = backend.blank(record.image.width, record.image.height)
        level = blank.level.module.requires_grad_(False)
        settings = getattr(record, stage)
        dtype = DTYPES[settings.dtype]
        if isinstance(settings, TrainSettings):
            embedding, trained = _leaves(blank, settings)
            frozen = sum(each.numel() for each in level.parameters() if not each.requires_grad)
            flop, activations = _step(blank, embedding, settings.batch, backward=True)
            flop *= settings.steps
            # fp32 master weights, gradients and moments of what is trained, and the frozen rest.
            memory = trained * 4 * (2 + _MOMENTS) + frozen * dtype.itemsize
            disk = 2 * trained * 4 * (1 + _MOMENTS)
            work = _training(settings)
        else:
            one, activations = _step(blank, blank.embedding, 1, backward=False)
            guided = 2 if settings.guidance > 1 else 1
            flop = one * guided * settings.steps * images
            memory = sum(each.numel() for each in level.parameters()) * 4
            disk = images * blank.clean.numel() * 8
            work = f"{images} images, {settings.steps} steps of {settings.scheduler} at guidance {settings.guidance}"
        seconds = flop / (_rate(device, dtype) * _EFFICIENCY)
        found.append(Cost(stage, work, flop, seconds, memory + activations * dtype.itemsize // 4, disk))
    return found


def _training(settings: TrainSettings) -> str:
    lora = f", LoRA of rank {settings.rank}" if isinstance(settings, FinetuneSettings) and settings.rank else ""
    return f"{settings.steps} steps of {settings.optimizer} at {settings.learning_rate}, {settings.dtype}{lora}"


def _leaves(blank: Blank, settings: TrainSettings) -> tuple[Embedding, int]:
    # The embedding, a leaf in stage A, and how many numbers the stage trains.
    if isinstance(settings, FinetuneSettings):
        return blank.embedding, sum(each.numel() for each in leaves(blank.level.module, settings).values())
    embedding = blank.embedding.leaves()
    return embedding, sum(each.numel() for each in embedding.tensors().values())


def _step(blank: Blank, embedding: Embedding, batch: int, backward: bool) -> tuple[float, int]:
    # Operations of one forward (and backward), and fp32 bytes that autograd keeps between the two.
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    timestep = torch.zeros(batch, dtype=torch.long, device="meta")
    clean = blank.clean.expand(batch, *blank.clean.shape[1:])
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        prediction = blank.level.predict(clean, timestep, embedding.expand(batch))
        if backward:
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
