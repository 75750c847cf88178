"""Adam's update of all leaves at once by Triton kernels, made or not made by what the GPU itself finds.

torch's Adam reads gradients in fp32 alone: making them, unscaling them and bringing half-precision copies to what the
leaves become moves nearly twice the bytes of the update itself. And whether it may be made at all was asked first, a
wait in the middle of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from imagic_cli.capture import captured
from imagic_cli.optimizers import MOMENTS, begin
from imagic_cli.scale import Scale

# Numbers that one program updates: with more of them their addresses fill the registers.
_NUMBERS = 1024
_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def builds(dtype: torch.dtype, device: torch.device) -> list[Callable[[], object]]:
    """What has the kernels compiled for gradients of a format."""
    # Not of the default format, which whoever loads a model in another thread changes for all.
    leaf = torch.zeros(_NUMBERS, dtype=torch.float32, device=device)
    copy = leaf.to(dtype)
    update = _Update([(copy, copy, leaf, leaf.clone(), leaf.clone())], 0.0, (0.9, 0.999), 1e-8)
    return [partial(update, _nothing(device), leaf.new_zeros(()), leaf.new_ones(()))]


def _nothing(device: torch.device) -> Tensor:
    """What is found where nothing may be updated."""
    return torch.full((2,), math.inf, dtype=torch.float32, device=device)


class DirectUpdates:
    """Updates as a graph, from gradients that always lie where they lie now.

    Args:
        rows: what is updated, each as a row of numbers: the gradient, the copy in the loss that it is of, which may be
            the leaf itself, the leaf in fp32, and its state as torch's Adam has it, which is begun where it is empty.
        group: the optimizer's settings.
        scale: of the loss.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]],
        group: Mapping[str, Any],
        scale: Scale,
    ) -> None:
        device = scale.factor.device
        begun = [state["step"] for *_, state in rows if state]
        # One count for all, for all are updated or none.
        step = begun[0].clone() if begun else torch.zeros((), device=device)
        for *_, leaf, state in rows:
            begin(leaf, state, step)
        table = [(*tensors, *(state[name] for name in MOMENTS)) for *tensors, state in rows]
        update = _Update(table, group["lr"], group["betas"], group["eps"])
        self.found = _nothing(device)
        # What a graph reads must outlive it.
        self.work = partial(update, self.found, step, scale.inverse)
        # Its kernels are compiled, and as nothing is finite it updates nothing.
        self.work()
        self.graph = captured(self.work, torch.cuda.Stream(device))

    def __call__(self, found: Tensor) -> Tensor:
        """Update all leaves, unless the loss or a gradient is not finite.

        Args:
            found: (2,): the loss and a 0.

        Returns:
            The same, with an infinity for the 0 if a gradient is not finite.
        """
        self.found.copy_(found)
        self.graph.replay()
        return self.found


class _Update:
    """The kernels' launches; see `DirectUpdates`."""

    def __init__(self, table: Sequence[Sequence[Tensor]], rate: float, betas: tuple[float, float], eps: float) -> None:
        # It is known by its addresses alone.
        self.table = table
        device = table[0][0].device
        self.rate, self.betas, self.eps = rate, betas, eps
        self.type = _TYPES[table[0][0].dtype]
        rows = [[row[0].numel(), *(each.data_ptr() for each in row)] for row in table]
        self.rows = torch.tensor(rows, device=device)
        starts = [torch.arange(0, row[0], _NUMBERS) for row in rows]
        places = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(each) for each in starts]))
        self.programs = torch.stack([places, torch.cat(starts)], 1).to(device)

    def __call__(self, found: Tensor, step: Tensor, inverse: Tensor) -> None:
        grid = (len(self.programs),)
        _find_infinite[grid](self.rows, self.programs, found, self.type, _NUMBERS)
        step += found.isfinite().all()
        # In fp32 the first of them would lack four digits.
        first, second = (1 - beta ** step.double() for beta in self.betas)
        numbers = torch.stack([self.rate / first, second.sqrt(), inverse.double()]).float()
        rises = [1 - beta for beta in self.betas]
        _update[grid](self.rows, self.programs, found, numbers, *rises, self.betas[1], self.eps, self.type, _NUMBERS)


@triton.jit
def _leaf(rows, programs, HALF: tl.constexpr, NUMBERS: tl.constexpr):
    # This program's part of a leaf: its row in the table, its places, which of them are there, and its gradient.
    at = programs + 2 * tl.program_id(0)
    row = rows + 6 * tl.load(at)
    place = tl.load(at + 1) + tl.arange(0, NUMBERS)
    inside = place < tl.load(row)
    gradient = tl.load(tl.load(row + 1).to(tl.pointer_type(HALF)) + place, inside, 0.0).to(tl.float32)
    return row, place, inside, gradient


@triton.jit
def _find_infinite(rows, programs, found, HALF: tl.constexpr, NUMBERS: tl.constexpr):
    _row, _place, _inside, gradient = _leaf(rows, programs, HALF, NUMBERS)
    # What is not finite lacks a difference from itself. Whoever finds it writes the same.
    if tl.sum((gradient - gradient != 0).to(tl.int32), 0) > 0:
        tl.store(found + 1, float("inf"))


@triton.jit
def _update(rows, programs, found, numbers, rise1, rise2, beta2, eps, HALF: tl.constexpr, NUMBERS: tl.constexpr):
    loss, most = tl.load(found), tl.load(found + 1)
    if (loss - loss == 0) & (most - most == 0):
        row, place, inside, gradient = _leaf(rows, programs, HALF, NUMBERS)
        copy = tl.load(row + 2).to(tl.pointer_type(HALF)) + place
        number, first, second = (
            tl.load(row + 3).to(tl.pointer_type(tl.float32)) + place,
            tl.load(row + 4).to(tl.pointer_type(tl.float32)) + place,
            tl.load(row + 5).to(tl.pointer_type(tl.float32)) + place,
        )
        gradient *= tl.load(numbers + 2)
        mean = tl.load(first, inside, 0.0)
        mean += rise1 * (gradient - mean)
        square = beta2 * tl.load(second, inside, 0.0) + rise2 * gradient * gradient
        root = tl.sqrt(square) / tl.load(numbers + 1) + eps
        value = tl.load(number, inside, 0.0) - tl.load(numbers) * mean / root
        tl.store(first, mean, inside)
        tl.store(second, square, inside)
        tl.store(number, value, inside)
        tl.store(copy, value.to(HALF), inside)
