"""The one training loop: stages A and B are this over different leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagic_cli.errors import NumberError
from imagic_cli.noise import Stream
from imagic_cli.updates import Updates

Objective = Callable[[torch.Generator], Tensor]
"""One step's loss, a scalar, from that step's random numbers; or what else `Updates.make` takes."""


@dataclass(frozen=True)
class Step:
    """One finished update.

    Attributes:
        index: how many updates have been made.
        loss: the loss before the update.
    """

    index: int
    loss: float


def fit(updates: Updates, objective: Objective, steps: int, stream: Stream, start: int = 0) -> Iterator[Step]:
    """Minimise `objective`, yielding after each update.

    Args:
        updates: hold the leaves; nothing else changes.
        objective: the loss.
        steps: updates in all.
        stream: what each step draws from.
        start: updates already made.

    Raises:
        NumberError: a loss or gradient is not finite; the update that it would have spoiled is not made.
    """
    for index in range(start + 1, steps + 1):
        try:
            loss = updates.make(objective(stream.at(index)))
        except NumberError as error:
            raise NumberError(f"{error} at step {index}") from error
        yield Step(index, loss)
