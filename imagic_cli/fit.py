"""The one training loop: stages A and B are this over different leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from imagic_cli.errors import NumberError
from imagic_cli.noise import Stream
from imagic_cli.updates import Updates

D = TypeVar("D")


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
    updates: Updates,
    draw: Callable[[torch.Generator], D],
    objective: Callable[[D], Tensor],
    steps: int,
    stream: Stream,
    start: int = 0,
) -> Iterator[Step]:
    """Minimise `objective`, yielding after each update.

    Args:
        updates: hold the leaves; nothing else changes.
        draw: a step's random numbers.
        objective: the loss, a scalar, of what was drawn; or what else `Updates.launch` takes.
        steps: updates in all.
        stream: what each step draws from.
        start: updates already made.

    Raises:
        NumberError: a loss or gradient is not finite; the update that it would have spoiled is not made.
    """
    drawn = draw(stream.at(start + 1))
    for index in range(start + 1, steps + 1):
        try:
            updates.launch(objective(drawn))
            if index < steps:
                # A processor draws while a GPU works; what it is sent waits there.
                drawn = draw(stream.at(index + 1))
            loss = updates.result()
        except NumberError as error:
            raise NumberError(f"{error} at step {index}") from error
        yield Step(index, loss)
