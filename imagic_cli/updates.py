"""Adam's updates, each made as soon as the backward pass has its gradients, which are then forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeGuard

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
        self.parts = [_Part(group, make) for group in groups]
        self._of = {leaf: part for part in self.parts for leaf in part.leaves}
        self._index = 0
        self.torn = False
        """Whether the last update was refused after a part of it was made."""
        self._hooks = [
            leaf.register_post_accumulate_grad_hook(partial(self._arrived, part))
            for leaf, part in self._of.items()
            if scaler is None
        ]

    def make(self, loss: Tensor, index: int) -> float:
        """Differentiate `loss`, update every leaf and return the loss; `index` names the step in an error.

        A graphed loss is differentiated already.

        Raises:
            NumberError: the loss or a gradient is not finite. No leaf has changed, unless `torn`.
        """
        self._index, self.torn = index, False
        if self.scaler is not None:
            return _scaled_update(self.parts[0], self.scaler, loss, index)
        value = _finite_value(loss, index)
        loss.backward()
        for part in self.parts:
            # Some of its leaves had no part in the loss.
            if part.missing < len(part.leaves):
                self._update(part)
        self.torn = False
        return value

    def state(self, leaf: Tensor) -> dict[str, Tensor | float]:
        """Adam's moments and count of steps for a leaf; empty before the first update."""
        return self._of[leaf].state(leaf)

    def restore(self, states: Mapping[Tensor, dict[str, Tensor | float]]) -> None:
        """Put back what `state` gave for every leaf."""
        for part in self.parts:
            part.restore([states[leaf] for leaf in part.leaves])

    def forget(self) -> None:
        """Free moments and gradients; no update follows."""
        # Through its hook a leaf holds all of this, and so itself, where no collection sees it.
        for hook in self._hooks:
            hook.remove()
        for part in self.parts:
            part.drop_gradients()
            part.optimizer.state.clear()

    def _arrived(self, part: _Part, leaf: Tensor) -> None:
        part.missing -= 1
        if not part.missing:
            self._update(part)

    def _update(self, part: _Part) -> None:
        part.missing = len(part.leaves)
        gradients = part.take_gradients()
        # A product with itself is the fastest pass over a tensor.
        if not torch.stack([row.dot(row) for row in gradients]).isfinite().all():
            raise NumberError(f"a gradient stopped being finite at step {self._index}")
        part.optimizer.step()
        part.drop_gradients()
        self.torn = True


class _Part:
    """Leaves that one optimizer updates.

    It is given them as rows of numbers, in the order in which they lie in memory: to torch's Adam a gradient with
    channels last is one that it must copy first.

    Args:
        leaves: some of those that are trained.
        make: an optimizer over tensors.
    """

    def __init__(self, leaves: list[Tensor], make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        # Else memory order is no order of its numbers alone, or autograd lays out the gradient in another.
        assert all(torch.empty_like(leaf).stride() == leaf.stride() for leaf in leaves)
        self.leaves = leaves
        self.rows = {leaf: _row(leaf.detach()) for leaf in leaves}
        self.optimizer = make(list(self.rows.values()))
        self.missing = len(leaves)
        """How many have no gradient yet."""

    def take_gradients(self) -> list[Tensor]:
        """Show the optimizer the gradients that there are: autograd lays each out as its leaf."""
        for leaf, row in self.rows.items():
            row.grad = None if leaf.grad is None else _row(leaf.grad)
        return [row.grad for row in self.rows.values() if row.grad is not None]

    def drop_gradients(self) -> None:
        for leaf, row in self.rows.items():
            leaf.grad = row.grad = None

    def state(self, leaf: Tensor) -> dict[str, Tensor | float]:
        row = self.rows[leaf]
        return {
            name: value.as_strided(leaf.shape, leaf.stride()) if _is_like(value, row) else value
            for name, value in self.optimizer.state[row].items()
        }

    def restore(self, states: Sequence[dict[str, Tensor | float]]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(enumerate(states)), "param_groups": groups})
        for leaf, row in self.rows.items():
            self.optimizer.state[row] |= {
                name: _row(torch.empty_like(leaf, dtype=value.dtype).copy_(value))
                for name, value in self.optimizer.state[row].items()
                if _is_like(value, leaf)
            }


def _row(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


def _is_like(value: Tensor | float, other: Tensor) -> TypeGuard[Tensor]:
    # A leaf of one number apart: the count of steps has no dimension.
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == other.shape


def _chunks(leaves: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for leaf in leaves:
        chunk.append(leaf)
        if sum(each.nbytes for each in chunk) >= _CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _finite_value(loss: Tensor, index: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise NumberError(f"the loss became {value} at step {index}")
    return value


def _scaled_update(part: _Part, scaler: GradScaler, loss: Tensor, index: int) -> float:
    if loss.requires_grad:
        _finite_value(loss, index)
        scaler.scale(loss).backward()
    part.take_gradients()
    # An overflow at a high scale is expected: the scaler skips that update and halves. Below 1 it is no overflow.
    scaler.step(part.optimizer)
    scaler.update()
    part.drop_gradients()
    # Read where all is launched: until here a GPU has been given work without a wait.
    refused = scaler.get_scale() < 1
    if refused:
        # Else a resumed run would fail at its first step, whatever its gradient.
        scaler.update(1.0)
    value = _finite_value(loss, index)
    if refused:
        raise NumberError(f"a gradient stopped being finite at step {index}")
    return value
