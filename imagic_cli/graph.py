"""On CUDA, the forward and backward pass of a training step as one graph: the same kernels, launched all at once.

A step at batch 1 is some 1500 small kernels, and launching them one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from imagic_cli.config import How, TrainSettings

# The first passes choose kernels and allocate what they keep, which a capture cannot hold.
_WARM_UP = 3


class Drawn(Protocol):
    """What a step draws: tensors on the device, of the same shapes at every step."""

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""


D = TypeVar("D", bound=Drawn)


def is_graphed(device: torch.device, settings: TrainSettings, how: How) -> bool:
    """Whether steps are graphed.

    A graph keeps all gradients at once: not where less memory is asked for. (Nor could it hold checkpointing's reading
    of the random state.)
    """
    return device.type == "cuda" and settings.optimizer == "adam" and not how.gradient_checkpointing


class Graphed(Generic[D]):
    """An objective whose loss is differentiated already: after a call the leaves hold its gradients, scaled.

    A loss that is not finite has gradients that are not, every one of them.

    Args:
        draw: a step's random numbers. Drawn as ever, outside the graph: the first call draws no more than another.
        loss: a scalar of what was drawn, and of tensors that stay where they are.
        leaves: what it is differentiated by.
        scaler: scales it.
    """

    def __init__(
        self,
        draw: Callable[[torch.Generator], D],
        loss: Callable[[D], Tensor],
        leaves: Sequence[Tensor],
        scaler: GradScaler,
    ) -> None:
        self.draw = draw
        self.loss = loss
        self.leaves = leaves
        self.scaler = scaler
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The loss of one step."""
        drawn = self.draw(generator)
        if self.graph is None:
            self.graph = self._capture(drawn)
        for place, value in zip(self.drawn.tensors(), drawn.tensors(), strict=True):
            place.copy_(value)
        self.graph.replay()
        for leaf, gradient in zip(self.leaves, self.gradients, strict=True):
            leaf.grad = gradient
        return self.value

    def _capture(self, drawn: D) -> torch.cuda.CUDAGraph:
        self.drawn = drawn
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.leaves[0].device)
        aside.wait_stream(torch.cuda.current_stream(aside.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._pass()
                self._forget()
        with torch.cuda.graph(graph, stream=aside):
            self.value = self._pass()
        torch.cuda.current_stream(aside.device).wait_stream(aside)
        self.gradients = [leaf.grad for leaf in self.leaves]
        return graph

    def _pass(self) -> Tensor:
        loss = self.loss(self.drawn)
        # One, or NaN where the loss is not finite.
        self.scaler.scale(loss).backward(loss.detach() * 0 + 1)
        return loss.detach()

    def _forget(self) -> None:
        # Gradients that are there would be added to.
        for leaf in self.leaves:
            leaf.grad = None
