"""On CUDA, a training step as two graphs: the same kernels, launched all at once.

A step at batch 1 is some 2000 small kernels, and launching them one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

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
    """An objective that is differentiated already: after a call the leaves hold its gradients.

    Args:
        draw: a step's random numbers. Drawn as ever, outside the graph: the first call draws no more than another.
        differentiate: the forward and backward pass over what was drawn; see `Updates.differentiate`.
        leaves: what it is differentiated by.
    """

    def __init__(
        self,
        draw: Callable[[torch.Generator], D],
        differentiate: Callable[[D], Tensor],
        leaves: Sequence[Tensor],
    ) -> None:
        self.draw = draw
        self.differentiate = differentiate
        self.leaves = leaves
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, generator: torch.Generator) -> Tensor:
        """What `differentiate` gives for one step."""
        drawn = self.draw(generator)
        if self.graph is None:
            self.graph = self._capture(drawn)
        for place, value in zip(self.drawn.tensors(), drawn.tensors(), strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.value

    def _capture(self, drawn: D) -> torch.cuda.CUDAGraph:
        self.drawn = drawn
        aside = torch.cuda.Stream(self.leaves[0].device)
        aside.wait_stream(torch.cuda.current_stream(aside.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self.differentiate(self.drawn)
                self._forget()
        torch.cuda.current_stream(aside.device).wait_stream(aside)

        def work() -> None:
            self.value = self.differentiate(self.drawn)

        return captured(work, aside)

    def _forget(self) -> None:
        # Gradients that are there would be added to.
        for leaf in self.leaves:
            leaf.grad = None


def captured(work: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A graph of what `work` launches, which is not run; what it makes lies where every replay puts it anew."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph
