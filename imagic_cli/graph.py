"""On CUDA, a training step as two graphs: kernels that are launched all at once.

A step at batch 1 is some 2000 small kernels, and launching them one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from imagic_cli import fusion
from imagic_cli.capture import captured
from imagic_cli.config import How, TrainSettings
from imagic_cli.precision import is_short
from imagic_cli.program import program
from imagic_cli.recording import record
from imagic_cli.updates import Updates

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
        loss: the forward pass over what is drawn for a step. Of what it reads only that and the leaves change.
        leaves: what it is differentiated by.
        updates: are made of what a call gives.
        on_plain: is told where the faster kernels, which are there, are not used.
    """

    def __init__(
        self,
        loss: Callable[[D], Tensor],
        leaves: Sequence[Tensor],
        updates: Updates,
        on_plain: Callable[[], None],
    ) -> None:
        self.on_plain = on_plain
        self.loss = loss
        self.leaves = leaves
        self.updates = updates
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, drawn: D) -> Tensor:
        """What `Updates.differentiate` gives for one step."""
        if self.graph is None:
            self.graph = self._capture(drawn)
        for place, value in zip(self.drawn.tensors(), drawn.tensors(), strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.value

    def _capture(self, drawn: D) -> torch.cuda.CUDAGraph:
        self.drawn = drawn
        device = self.leaves[0].device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            # Kept, for it holds what was computed once for all steps.
            self.step = self._fused() or self._warmed_up()
        torch.cuda.current_stream(device).wait_stream(aside)

        def work() -> None:
            self.value = self.step(self.drawn)

        return captured(work, aside)

    def _warmed_up(self) -> Callable[[D], Tensor]:
        def step(drawn: D) -> Tensor:
            return self.updates.differentiate(self.loss(drawn))

        for _ in range(_WARM_UP):
            step(self.drawn)
            self._forget()
        return step

    def _fused(self) -> Callable[[D], Tensor] | None:
        """The same by other kernels; None where it cannot be had, or does not give the same."""
        scale = self.updates.scale
        if scale is None or not fusion.is_there():
            return None
        factor = scale.factor

        def scaled() -> Tensor:
            return self.loss(self.drawn) * factor

        def step(drawn: D) -> Tensor:
            with torch.no_grad():
                return self.updates.found(run(*drawn.tensors()) * scale.inverse)

        try:
            # Else a backward pass is made by another thread.
            with torch.autograd.set_multithreading_enabled(False), scale.low():
                recording = record(self.drawn.tensors(), self.leaves, scaled)
                fusion.fuse(recording)
                run = program(recording, lambda _loss: None, self._take)
                loss = scaled()
                wanted = torch.autograd.grad(loss, self.leaves, allow_unused=True)
                close = fusion.is_close([step(self.drawn)[0] / scale.inverse], [loss.detach()])
                if close and fusion.is_close([leaf.grad for leaf in self.leaves], wanted):
                    return step
        except Exception as error:
            # It cannot be recorded, or what was recorded took one order of memory and a kernel here gives another, or
            # Triton's compilers refuse one.
            if is_short(error):
                raise
        finally:
            self._forget()
        self.on_plain()
        return None

    def _take(self, place: int, gradient: Tensor) -> None:
        self.leaves[place].grad = gradient

    def _forget(self) -> None:
        # Gradients that are there would be added to.
        for leaf in self.leaves:
            leaf.grad = None
