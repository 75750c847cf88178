"""A denoiser's training step or forward pass as the operations that it comes to, recorded once.

That is one or two thousand operations, on a processor on small tensors. Which they are, module by module, and in a step
which undo them, is the same every time, and takes a tenth of its time to find out; and to launch each on a GPU takes
longer than it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from imagic_cli import fusion
from imagic_cli.capture import captured
from imagic_cli.graph import D
from imagic_cli.memory import release
from imagic_cli.onednn import hasten
from imagic_cli.precision import Precision, is_short, is_small
from imagic_cli.program import compiled, program
from imagic_cli.recording import NotRecordableError, Recording, record, record_pass
from imagic_cli.updates import Updates


def is_replayed(precision: Precision, denoiser: nn.Module) -> bool:
    """Whether what it does is: not a large one's, for frozen weights are kept once or twice more, in faster orders."""
    plain = precision.device.type == "cpu" and precision.dtype == torch.float32
    return plain and is_small(denoiser)


def are_passes_replayed(precision: Precision, denoiser: nn.Module) -> bool:
    """Whether its forward passes alone are: on a GPU any."""
    return precision.device.type == "cuda" or is_replayed(precision, denoiser)


class Replayed(Generic[D]):
    """An objective that, where its step can be recorded, is differentiated and has updated already.

    Args:
        loss: the forward pass over what is drawn for a step, in tensors of the same shapes each time. Of what it reads
            only that and the leaves change.
        leaves: what it is differentiated by.
        updates: made within the step.
    """

    def __init__(
        self,
        loss: Callable[[D], Tensor],
        leaves: Sequence[Tensor],
        updates: Updates,
    ) -> None:
        self.loss = loss
        self.leaves = leaves
        self.updates = updates
        self.step: Callable[[D], Tensor] | None = None

    def __call__(self, drawn: D) -> Tensor:
        """One step's loss; not differentiated yet, where the step cannot be recorded."""
        if self.step is None:
            self.step = self._recorded(drawn)
        return self.step(drawn)

    def _recorded(self, drawn: D) -> Callable[[D], Tensor]:
        try:
            recording = record(drawn.tensors(), self.leaves, lambda: self.loss(drawn))
        except NotRecordableError:
            return self.loss
        hasten(recording)
        run = program(recording, self.updates.begin, self._take)
        del recording
        # All gradients at once were more than is there from here on.
        release(self.leaves[0].device)

        def replay(drawn: D) -> Tensor:
            # Beside what no gradient costs, this leaves out what notices that a tensor was changed.
            with torch.inference_mode():
                return run(*drawn.tensors())

        return replay

    def _take(self, place: int, gradient: Tensor) -> None:
        self.updates.take(self.leaves[place], gradient)


@contextmanager
def replayed_passes(denoisers: Iterable[nn.Module]) -> Iterator[None]:
    """Replay the forward passes of denoisers whose weights stay as they are, for inputs of one shape after another.

    A pass that gives anything but a tuple of tensors, as the pipelines ask for, is made as before.
    """
    replayed = list(denoisers)
    for denoiser in replayed:
        denoiser.forward = _Passes(denoiser.forward)
    try:
        yield
    finally:
        # Each would hold itself through it, and so its weights until some collection.
        for denoiser in replayed:
            del denoiser.forward


class _Passes:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        # The last alone: each has the weights in an order of its own.
        self.key: str | None = None
        """What is no tensor, the shapes of what is one, and which of these are the same."""
        self.run: Callable[..., Any] | None = None
        """None, where such a pass cannot be recorded."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        tensors: list[Tensor] = []

        def told(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            tensors.append(value)
            first = [each is value for each in tensors].index(True)
            return value.dtype, value.shape, value.stride(), first

        key = repr(map_aggregate((arguments, options), told))
        if key != self.key:
            self.run = None
            self.run, self.key = self._recorded(tensors, arguments, options), key
        if self.run is None:
            return self.forward(*arguments, **options)
        with torch.inference_mode():
            found = self.run(*tensors)
        # Outside of that mode nothing may change what was made within.
        return tuple(each.clone() for each in found)

    def _recorded(self, tensors: Sequence[Tensor], arguments: Any, options: Any) -> Callable[..., Any] | None:
        def forward() -> Sequence[Tensor]:
            found = self.forward(*arguments, **options)
            if not isinstance(found, tuple) or not all(isinstance(each, Tensor) for each in found):
                raise NotRecordableError(type(found))
            return found

        try:
            recording = record_pass(tensors, forward)
        except NotRecordableError:
            return None
        if any(each.is_cuda for each in tensors):
            with torch.no_grad():
                return _launched(recording, tensors, forward())
        hasten(recording)
        return compiled(recording)


@torch.inference_mode()
def _launched(
    recording: Recording, tensors: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]] | None:
    """What a GPU is given at once; what it gives lies where the next one puts it. None where it is not `wanted`."""
    # What a graph copies from elsewhere it would always copy from the same place.
    if not all(each.is_cuda for each in tensors):
        return None
    places = [each.clone() for each in tensors]
    aside = torch.cuda.Stream(places[0].device)
    found: list[Sequence[Tensor]] = [()]

    def work() -> None:
        found[0] = run(*places)

    aside.wait_stream(torch.cuda.current_stream(aside.device))
    with torch.cuda.stream(aside):
        try:
            if fusion.is_there():
                fusion.fuse(recording)
            run = compiled(recording)
            work()
        except Exception as error:
            # As in a step.
            if is_short(error):
                raise
            return None
    if not fusion.is_close(found[0], wanted):
        return None
    torch.cuda.current_stream(aside.device).wait_stream(aside)
    graph = captured(work, aside)
    # With what it was captured with, which `run` holds.
    return partial(_launch, graph, places, found[0], run)


def _launch(
    graph: torch.cuda.CUDAGraph, places: Sequence[Tensor], found: Sequence[Tensor], _held: object, *tensors: Tensor
) -> Sequence[Tensor]:
    for place, tensor in zip(places, tensors, strict=True):
        place.copy_(tensor)
    graph.replay()
    return found
