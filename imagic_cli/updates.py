"""Adam's updates, each made as soon as the backward pass has its gradients, which are then forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from imagic_cli.errors import NumberError

# Small enough to stay in a processor's cache, large enough that what an optimizer's call costs does not show.
_CHUNK_BYTES = 4 << 20


class Updates:
    """Optimizers over leaves, a few megabytes of them each.

    All gradients at once are as large as the leaves; here only those of one optimizer are there at a time. What comes
    out is what one optimizer over all leaves would make, for Adam treats each number by itself. A scaled loss is the
    exception: whether its update is made at all depends on every gradient.

    Args:
        leaves: what is trained, in the order of the forward pass.
        make: an optimizer over some of them.
        scaler: scales the loss where gradients would underflow (fp16), or where it is graphed.
    """

    def __init__(
        self,
        leaves: Sequence[Tensor],
        make: Callable[[list[Tensor]], torch.optim.Optimizer],
        scaler: GradScaler | None = None,
    ) -> None:
        self.scaler = scaler
        # Gradients come from the last layer to the first.
        groups = [list(leaves)] if scaler else _chunks(reversed(leaves))
        self.optimizers = [make(group) for group in groups]
        self._of = {leaf: each for each in self.optimizers for leaf in _leaves(each)}
        self._missing = {each: len(_leaves(each)) for each in self.optimizers}
        self._index = 0
        self.torn = False
        """Whether the last update was refused after a part of it was made."""
        if scaler is None:
            for leaf, optimizer in self._of.items():
                leaf.register_post_accumulate_grad_hook(partial(self._arrived, optimizer))

    def make(self, loss: Tensor, index: int) -> float:
        """Differentiate `loss`, update every leaf and return the loss; `index` names the step in an error.

        A graphed loss is differentiated already.

        Raises:
            NumberError: the loss or a gradient is not finite. No leaf has changed, unless `torn`.
        """
        self._index, self.torn = index, False
        if self.scaler is not None:
            return _scaled_update(self.optimizers[0], self.scaler, loss, index)
        value = _finite_value(loss, index)
        loss.backward()
        for optimizer in self.optimizers:
            # Some of its leaves had no part in the loss.
            if self._missing[optimizer] < len(_leaves(optimizer)):
                self._update(optimizer)
        self.torn = False
        return value

    def state(self, leaf: Tensor) -> dict[str, Tensor | float]:
        """Adam's moments and count of steps for a leaf; empty before the first update."""
        state: dict[str, Tensor | float] = self._of[leaf].state[leaf]
        return state

    def restore(self, states: Mapping[Tensor, dict[str, Tensor | float]]) -> None:
        """Put back what `state` gave for every leaf."""
        for optimizer in self.optimizers:
            leaves = _leaves(optimizer)
            found = {index: states[leaf] for index, leaf in enumerate(leaves)}
            optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
            for leaf in leaves:
                # An update goes through memory in order: a moment must lie there as its leaf does.
                optimizer.state[leaf] |= {
                    name: torch.empty_like(leaf, dtype=value.dtype).copy_(value)
                    for name, value in optimizer.state[leaf].items()
                    if isinstance(value, Tensor) and value.ndim and value.shape == leaf.shape
                }

    def forget(self) -> None:
        """Free moments and gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()

    def _arrived(self, optimizer: torch.optim.Optimizer, leaf: Tensor) -> None:
        self._missing[optimizer] -= 1
        if not self._missing[optimizer]:
            self._update(optimizer)

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        self._missing[optimizer] = len(_leaves(optimizer))
        gradients = [leaf.grad for leaf in _leaves(optimizer) if leaf.grad is not None]
        if not _finite(gradients):
            raise NumberError(f"a gradient stopped being finite at step {self._index}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.torn = True


def _chunks(leaves: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for leaf in leaves:
        chunk.append(leaf)
        if sum(each.nbytes for each in chunk) >= _CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _leaves(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    leaves: list[Tensor] = optimizer.param_groups[0]["params"]
    return leaves


def _finite(gradients: Sequence[Tensor]) -> bool:
    # A product with itself is the fastest pass over a tensor; read as one row, in whatever order it lies in memory.
    rows = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    return bool(torch.stack([row.dot(row) for row in rows]).isfinite().all())


def _finite_value(loss: Tensor, index: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise NumberError(f"the loss became {value} at step {index}")
    return value


def _scaled_update(optimizer: torch.optim.Optimizer, scaler: GradScaler, loss: Tensor, index: int) -> float:
    if loss.requires_grad:
        _finite_value(loss, index)
        scaler.scale(loss).backward()
    # An overflow at a high scale is expected: the scaler skips that update and halves. Below 1 it is no overflow.
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    # Read where all is launched: until here a GPU has been given work without a wait.
    refused = scaler.get_scale() < 1
    if refused:
        # Else a resumed run would fail at its first step, whatever its gradient.
        scaler.update(1.0)
    value = _finite_value(loss, index)
    if refused:
        raise NumberError(f"a gradient stopped being finite at step {index}")
    return value
