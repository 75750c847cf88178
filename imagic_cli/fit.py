"""The one training loop: stages A and B are this over different leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from imagic_cli.errors import NumberError
from imagic_cli.noise import Stream

Objective = Callable[[torch.Generator], Tensor]
"""One step's loss, a scalar with a graph, from that step's random numbers."""


@dataclass(frozen=True)
class Step:
    """One finished update.

    Attributes:
        index: how many updates have been made.
        loss: the loss before the update.
    """

    index: int
    loss: float


def fit(
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    steps: int,
    stream: Stream,
    start: int = 0,
    scaler: GradScaler | None = None,
) -> Iterator[Step]:
    """Minimise `objective`, yielding after each update.

    Args:
        optimizer: holds the leaves; nothing else changes.
        objective: the loss.
        steps: updates in all.
        stream: what each step draws from.
        start: updates already made.
        scaler: scales the loss where gradients would underflow (fp16).

    Raises:
        NumberError: a loss or gradient is not finite; the update that it would have spoiled is not made.
    """
    for index in range(start + 1, steps + 1):
        optimizer.zero_grad(set_to_none=True)
        loss = objective(stream.at(index))
        value = loss.item()
        if not math.isfinite(value):
            raise NumberError(f"the loss became {value} at step {index}")
        if scaler is None:
            loss.backward()
            _check_gradients(optimizer, index)
            optimizer.step()
        else:
            _scaled_update(optimizer, scaler, loss, index)
        yield Step(index, value)


def _check_gradients(optimizer: torch.optim.Optimizer, index: int) -> None:
    gradients = [leaf.grad for group in optimizer.param_groups for leaf in group["params"] if leaf.grad is not None]
    if not torch.nn.utils.get_total_norm(gradients).isfinite():
        raise NumberError(f"a gradient stopped being finite at step {index}")


def _scaled_update(optimizer: torch.optim.Optimizer, scaler: GradScaler, loss: Tensor, index: int) -> None:
    # An overflow at a high scale is expected: the scaler skips that update and halves. Below 1 it is no overflow.
    before = scaler.state_dict()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    if scaler.get_scale() < 1:
        # Else a resumed run would fail at its first step, whatever its gradient.
        scaler.load_state_dict(before)
        raise NumberError(f"a gradient stopped being finite at step {index}")
