"""What a command would do and cost, counted on the model's own graph without its weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imagic_cli import backends, onednn
from imagic_cli.backends.base import Blank, Pass
from imagic_cli.backends.source import Model
from imagic_cli.config import FinetuneSettings, SamplingSettings, TrainSettings
from imagic_cli.embedding import Embedding
from imagic_cli.names import part, plural
from imagic_cli.precision import DTYPES, Precision
from imagic_cli.record import Record
from imagic_cli.replay import is_replayed
from imagic_cli.tuning import leaves

# Networks of convolutions and attention reach about this part of the rate of one large matrix product.
_EFFICIENCY = 0.5
_MOMENTS = 2
# In which a replayed step keeps frozen weights beside the model's own: forwards and backwards.
_ORDERS = 2


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


def costs(
    record: Record, model: Model, stages: list[str], images: int, device: torch.device, levels: Sequence[str] = ()
) -> list[Cost]:
    """Estimate each of `stages` at the recorded settings.

    Args:
        record: the settings.
        model: whose configs say how large it is.
        stages: optimize, finetune, generate.
        images: how many stage C makes.
        device: where.
        levels: what stage B trains; none named is all.
    """
    backend = backends.load(model)
    size = record.image.width, record.image.height
    found = []
    for stage in stages:
        if stage == "optimize":
            found.append(_trained(stage, backend.blank(*size), record.optimize, device))
        elif stage == "finetune":
            for level in levels or record.levels():
                found.append(_trained(part(stage, level), backend.blank(*size, level), record.recipe(level), device))
        else:
            passes = backend.passes(record.generate)
            blanks = [backend.blank(*size, each.name) for each in passes]
            found.append(_sampled(record.generate, passes, blanks, images, device))
    return found


def _trained(name: str, blank: Blank, settings: TrainSettings, device: torch.device) -> Cost:
    dtype = DTYPES[settings.dtype]
    blank.level.module.requires_grad_(False)
    embedding, trained = _leaves(blank, settings)
    frozen = sum(each.numel() for each in blank.level.module.parameters() if not each.requires_grad)
    flop, activations = counted(blank, embedding, settings.batch, backward=True)
    # Of what is trained, master weights and moments in fp32, and gradients: in half precision these and the copies that
    # they are of take as much. The frozen rest is in fp32 while it is loaded, unless all but a LoRA is frozen.
    rest = 4 if isinstance(settings, FinetuneSettings) and settings.method != "lora" else dtype.itemsize
    frozen *= 1 + _ORDERS * _is_ordered(blank, settings.dtype, device)
    memory = trained * 4 * (2 + _MOMENTS) + frozen * rest
    disk = 2 * trained * 4 * (1 + _MOMENTS)
    return _cost(name, _training(settings), flop * settings.steps, memory, activations, disk, device, dtype)


def _training(settings: TrainSettings) -> str:
    told = f"{plural(settings.steps, 'step')} of {settings.optimizer} at {settings.learning_rate}, {settings.dtype}"
    if not isinstance(settings, FinetuneSettings) or settings.method == "full":
        return told
    return f"{told}, " + (f"LoRA of rank {settings.rank}" if settings.rank else "the text's keys and values")


def _leaves(blank: Blank, settings: TrainSettings) -> tuple[Embedding, int]:
    # The embedding, a leaf in stage A, and how many numbers the stage trains.
    if isinstance(settings, FinetuneSettings):
        return blank.embedding, sum(each.numel() for each in leaves(blank.level.module, settings).values())
    embedding = blank.embedding.leaves()
    return embedding, sum(each.numel() for each in embedding.tensors().values())


def _sampled(
    settings: SamplingSettings, passes: Sequence[Pass], blanks: Sequence[Blank], images: int, device: torch.device
) -> Cost:
    flop, activations = 0.0, 0
    for each, blank in zip(passes, blanks, strict=True):
        one, kept = counted(blank, blank.embedding, 1, backward=False)
        flop += one * (2 if each.guidance > 1 else 1) * each.steps * images
        activations = max(activations, kept)
    told = " then ".join(f"{plural(each.steps, 'step')} of {each.name} at guidance {each.guidance}" for each in passes)
    if len(passes) == 1:
        told = f"{plural(settings.steps, 'step')} of {settings.scheduler} at guidance {settings.guidance}"
    # Of these orders a sample needs the one.
    weights = sum(_parameters(blank) * (1 + _is_ordered(blank, settings.dtype, device)) for blank in blanks)
    memory, disk = weights * 4, images * blanks[-1].clean.numel() * 8
    work = f"{plural(images, 'image')}, {told}"
    return _cost("generate", work, flop, memory, activations, disk, device, DTYPES[settings.dtype])


def _cost(
    stage: str,
    work: str,
    flop: float,
    memory: int,
    activations: int,
    disk: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Cost:
    seconds = flop / (product_rate(device, dtype) * _EFFICIENCY)
    return Cost(stage, work, flop, seconds, memory + activations * dtype.itemsize // 4, disk)


def _is_ordered(blank: Blank, dtype: str, device: torch.device) -> bool:
    # Whether frozen weights are kept in oneDNN's order too.
    return onednn.is_there() and is_replayed(Precision(dtype, device), blank.level.module)


def _parameters(blank: Blank) -> int:
    return sum(each.numel() for each in blank.level.module.parameters())


def counted(blank: Blank, embedding: Embedding, batch: int, backward: bool) -> tuple[float, int]:
    """Operations of one forward (and backward) pass, and the fp32 bytes that autograd keeps between the two."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        prediction = blank.prediction(embedding, batch)
        if backward:
            prediction.sum().backward()
    return float(counter.get_total_flops()), sum(kept.values()) or prediction.numel() * 4


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product, best of a few: the machine may be doing other things."""
    side = 2048 if device.type == "cuda" else 768
    factor = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (factor @ factor)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
