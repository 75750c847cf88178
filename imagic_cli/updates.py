"""Adam's updates: each as soon as the backward pass has its gradients, or all of them once every gradient is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from imagic_cli import fusion
from imagic_cli.capture import captured
from imagic_cli.errors import NumberError
from imagic_cli.optimizers import Adam, Optimizer
from imagic_cli.scale import Scale

if TYPE_CHECKING:
    from imagic_cli.adam import DirectUpdates

# Within the backward pass they are small enough to stay in a processor's cache, and large enough that what a call of an
# optimizer costs does not show. After it larger ones are faster on a GPU, and little beside all gradients.
_WITHIN_BYTES, _AFTER_BYTES = 4 << 20, 256 << 20
_SMALL = 4096
"""Numbers of a leaf that is not worth an optimizer's call of its own."""
_GRADIENT = "a gradient stopped being finite"


class Updates:
    """Optimizers over leaves, some megabytes of them each.

    All gradients at once are as large as the leaves; here only those of one optimizer are there at a time. What comes
    out is what one optimizer over all leaves would make, for Adam treats each number by itself; to the last bit, where
    small leaves are not joined: on a processor that depends on a number's place in its tensor. A scaled loss is the
    exception: whether its update is made at all depends on every gradient.

    Args:
        leaves: what is trained, in fp32 and in the order of the forward pass.
        make: an optimizer over some of them.
        scale: of the loss, where no update may be made before all gradients are known.
        copies: what the loss is of, where that is not the leaves themselves but half-precision copies of them, which
            follow every update.
        graphed: replay the updates as one graph; their gradients lie where they always lie.
        join: give an optimizer many small leaves as one tensor, which costs less. Not one that reads more than a
            number's own gradient, as one with 8-bit moments does.
    """

    def __init__(
        self,
        leaves: Sequence[Tensor],
        make: Callable[[list[Tensor]], Optimizer],
        scale: Scale | None = None,
        copies: Sequence[Tensor] | None = None,
        graphed: bool = False,
        join: bool = False,
    ) -> None:
        self.scale, self.graphed = scale, graphed
        pairs = list(zip(leaves, leaves if copies is None else copies, strict=True))
        # Gradients come from the last layer to the first.
        chunks = _chunks(reversed(pairs), _WITHIN_BYTES if scale is None else _AFTER_BYTES)
        self.parts = [_Part(group, make, join) for group in chunks]
        self._of = {leaf: part for part in self.parts for leaf in part.leaves}
        self._with = {copy: part for part in self.parts for copy in part.copies}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._made = False
        self._is_direct = graphed and fusion.is_there()
        """Whether all updates are made at once, from the gradients as they are."""
        self._direct: DirectUpdates | None = None
        self._value: float | None = None
        """The loss of the step that is being made."""
        self.torn = False
        """Whether the last update was refused after a part of it was made."""
        self._hooks = [
            copy.register_post_accumulate_grad_hook(partial(self._arrived, part))
            for part in self.parts
            for copy in part.copies
            if scale is None
        ]

    def make(self, loss: Tensor) -> float:
        """Differentiate `loss`, update every leaf and return the loss: `launch`, and the wait for its `result`."""
        self.launch(loss)
        return self.result()

    def launch(self, loss: Tensor) -> None:
        """Differentiate `loss` and begin to update every leaf.

        In place of a loss it takes what `differentiate` made of one, or one whose gradients `take` was given. With
        those of a graph, the gradients must always lie in the same place.

        Raises:
            NumberError: as `result`.
        """
        if self.scale is not None:
            self._found = self.differentiate(loss) if loss.requires_grad else loss
            if self._is_direct:
                self._found = self._make_directly(self._found, self.scale)
        elif loss.requires_grad:
            self.begin(loss)
            loss.backward()

    def result(self) -> float:
        """The loss of what was launched, once every leaf is updated.

        Raises:
            NumberError: the loss or a gradient is not finite. No leaf has changed, unless `torn`.
        """
        if self.scale is not None:
            return self._update_all(self._found, self.scale)
        value, self._value = self._value, None
        assert value is not None, "a loss that was neither differentiated nor is to be"
        for part in self.parts:
            # Some of its leaves had no part in the loss.
            if part.missing < len(part.copies):
                self._update(part)
        self.torn = False
        return value

    def begin(self, loss: Tensor) -> None:
        """Before its gradients: refuse a loss that is not finite."""
        self.torn = False
        value = loss.item()
        _check_finite(value)
        self._value = value

    def take(self, copy: Tensor, gradient: Tensor) -> None:
        """A gradient that autograd did not bring, laid out like its copy, which nothing reads until it is updated."""
        copy.grad = gradient
        self._arrived(self._with[copy], copy)

    def differentiate(self, loss: Tensor) -> Tensor:
        """Leave the gradients of the scaled loss at the leaves' copies, and give loss and largest gradient, (2,)."""
        assert self.scale is not None
        loss.backward(self.scale.factor.to(loss.dtype))
        return self.found(loss.detach())

    def found(self, loss: Tensor) -> Tensor:
        """What `launch` takes in place of a loss whose scaled gradients are at the leaves' copies."""
        if self._is_direct:
            # Whether the gradients are finite, what makes the updates sees for itself.
            return torch.stack([loss, torch.zeros_like(loss)])
        gradients = [copy.grad for part in self.parts for copy in part.copies if copy.grad is not None]
        return torch.stack([loss, get_total_norm(gradients, math.inf).to(loss.dtype)])

    def state(self, leaf: Tensor) -> dict[str, Tensor]:
        """Adam's moments and count of steps for a leaf; empty before the first update."""
        return self._of[leaf].state(leaf)

    def restore(self, states: Iterable[tuple[Tensor, str, Tensor]]) -> None:
        """Put back what `state` gave: a leaf, a name and a tensor, of which a copy is taken, at a time.

        Afterwards the copies are brought to what the leaves are then.
        """
        for leaf, name, value in states:
            self._of[leaf].restore(leaf, name, value)
        for part in self.parts:
            part.publish()

    def forget(self) -> None:
        """Free moments and gradients; no update follows."""
        # Through its hook a leaf holds all of this, and so itself, where no collection sees it.
        for hook in self._hooks:
            hook.remove()
        self._graph = self._direct = None
        for part in self.parts:
            part.drop_gradients()
            part.optimizer.state.clear()

    def _arrived(self, part: _Part, leaf: Tensor) -> None:
        part.missing -= 1
        if not part.missing:
            self._update(part)

    # A replayed step is made in inference mode, and moments made there could be changed there only. Without that mode
    # gradients are on.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _update(self, part: _Part) -> None:
        part.missing = len(part.copies)
        gradients = part.take_gradients()
        # A product with itself is the fastest pass over a tensor.
        if not torch.stack([row.dot(row) for row in gradients]).isfinite().all():
            raise NumberError(_GRADIENT)
        part.step()
        part.drop_gradients()
        self.torn = True

    def _update_all(self, found: Tensor, scale: Scale) -> float:
        self.torn = False
        # Here the step waits for a GPU, if it has not before.
        value, most = (float(each) for each in found.tolist())
        fine = math.isfinite(value) and math.isfinite(most)
        if fine and not self._is_direct:
            self._launch(scale)
        if not self.graphed:
            for part in self.parts:
                part.drop_gradients()
        _check_finite(value)
        if fine:
            scale.passed()
        elif not scale.overflowed():
            raise NumberError(_GRADIENT)
        return value

    def _launch(self, scale: Scale) -> None:
        def work() -> None:
            for part in self.parts:
                # None, where no leaf of it had a part in the loss.
                if gradients := part.take_gradients():
                    if scale.moves:
                        torch._foreach_mul_(gradients, scale.inverse)
                    part.step()
                    part.drop_rows()
                # Else they would stay beside those of the next part.
                del gradients

        # The first update makes the moments: within a graph they would be made at each replay.
        if self.graphed and self._made and self._graph is None:
            for part in self.parts:
                part.optimizer.param_groups[0]["capturable"] = True
            self._graph = captured(work, torch.cuda.Stream(scale.factor.device))
        if self._graph is None:
            work()
        else:
            self._graph.replay()
        self._made = True

    def _make_directly(self, found: Tensor, scale: Scale) -> Tensor:
        if self._direct is None:
            # Without Triton it cannot be imported.
            from imagic_cli.adam import DirectUpdates

            rows = [each for part in self.parts for each in part.differentiated()]
            self._direct = DirectUpdates(rows, self.parts[0].optimizer.param_groups[0], scale)
        return self._direct(found)


class _Part:
    """Leaves that one optimizer updates.

    It is given them as rows of numbers, in the order in which they lie in memory: to torch's Adam a gradient with
    channels last is one that it must copy first.

    Args:
        pairs: some of those that are trained, each with its copy in the loss, which may be itself.
        make: an optimizer over tensors.
        join: give it the small ones among them as one row.
    """

    def __init__(
        self, pairs: list[tuple[Tensor, Tensor]], make: Callable[[list[Tensor]], Optimizer], join: bool
    ) -> None:
        # Else memory order is no order of its numbers alone, or autograd lays out the gradient in another.
        assert all(torch.empty_like(each).stride() == leaf.stride() for leaf, copy in pairs for each in (leaf, copy))
        self.copies = [copy for _, copy in pairs]
        self.rows = [_Row([pair]) for pair in pairs if not join or pair[0].numel() >= _SMALL]
        if small := [pair for pair in pairs if join and pair[0].numel() < _SMALL]:
            self.rows.append(_Row(small))
        self.leaves = {leaf: (row, place) for row in self.rows for leaf, place in row.places.items()}
        self.optimizer = make([row.numbers for row in self.rows])
        self.missing = len(pairs)
        """How many have no gradient yet."""

    def differentiated(self) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]:
        """Of what has a gradient: that, the copy that it is of, the leaf, and the optimizer's state of it."""
        for row in self.rows:
            (copy,) = row.copies
            if copy.grad is not None:
                yield _flat(copy.grad), _flat(copy.detach()), row.numbers, self.optimizer.state[row.numbers]

    def take_gradients(self) -> list[Tensor]:
        """Show the optimizer the gradients that there are, in fp32."""
        present = [(row.numbers, found) for row in self.rows if (found := row.gradient()) is not None]
        gradients = [gradient for _, gradient in present]
        if any(gradient.dtype != numbers.dtype for numbers, gradient in present):
            gradients = [torch.empty_like(numbers) for numbers, _ in present]
            torch._foreach_copy_(gradients, [gradient for _, gradient in present])
        self.drop_rows()
        for (numbers, _), gradient in zip(present, gradients, strict=True):
            numbers.grad = gradient
        return gradients

    def step(self) -> None:
        """Update the leaves, and their copies."""
        self.optimizer.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the copies to what the leaves are."""
        apart = [pair for row in self.rows for pair in row.apart]
        if apart:
            torch._foreach_copy_([_flat(copy) for _, copy in apart], [_flat(leaf) for leaf, _ in apart])

    def drop_gradients(self) -> None:
        self.drop_rows()
        for copy in self.copies:
            copy.grad = None

    def drop_rows(self) -> None:
        for row in self.rows:
            row.numbers.grad = None

    def state(self, leaf: Tensor) -> dict[str, Tensor]:
        row, place = self.leaves[leaf]
        state = {name: torch.as_tensor(value) for name, value in self.optimizer.state[row.numbers].items()}
        return {
            # The count of steps is one for the whole row, and a file takes no tensor twice.
            name: value[place].as_strided(leaf.shape, leaf.stride())
            if value.shape == row.numbers.shape
            else value.clone()
            for name, value in state.items()
        }

    def restore(self, leaf: Tensor, name: str, value: Tensor) -> None:
        # Not by load_state_dict, which wants everything at once.
        row, place = self.leaves[leaf]
        state = self.optimizer.state[row.numbers]
        # A leaf may be one number without a dimension, as the count of steps always is.
        if value.shape == leaf.shape and name != "step":
            if name not in state:
                state[name] = torch.zeros_like(row.numbers, dtype=value.dtype)
            state[name][place].as_strided(leaf.shape, leaf.stride()).copy_(value)
        elif value.ndim == 0 and not isinstance(self.optimizer, Adam | torch.optim.Adam):
            # bitsandbytes counts its steps in a Python number.
            state[name] = value.item()
        else:
            # Always a copy: a view would keep the file that it was read from in memory.
            state[name] = value.to(leaf.device, copy=True)


class _Row:
    """Leaves as one row of numbers; several are brought side by side in memory.

    Args:
        pairs: leaves, and their copies.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.copies = [copy for _, copy in pairs]
        self.apart = [(leaf, copy) for leaf, copy in pairs if copy.dtype != leaf.dtype]
        ends = list(accumulate(leaf.numel() for leaf, _ in pairs))
        self.places = {leaf: slice(end - leaf.numel(), end) for (leaf, _), end in zip(pairs, ends, strict=True)}
        self.numbers = _flat(pairs[0][0].detach())
        if len(pairs) > 1:
            self.numbers = torch.cat([_flat(leaf.detach()) for leaf, _ in pairs])
            for leaf, copy in pairs:
                own = self.numbers[self.places[leaf]].as_strided(leaf.shape, leaf.stride())
                if copy.data_ptr() == leaf.data_ptr():
                    copy.data = own
                leaf.data = own

    def gradient(self) -> Tensor | None:
        """That of all of it, in the copies' format: autograd lays each out as its leaf."""
        if all(copy.grad is None for copy in self.copies):
            return None
        # To Adam a gradient of zeros is no gradient, as long as there has never been another.
        found = [_flat(torch.zeros_like(copy) if copy.grad is None else copy.grad) for copy in self.copies]
        return found[0] if len(found) == 1 else torch.cat(found)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


def _chunks(pairs: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    chunk: list[tuple[Tensor, Tensor]] = []
    for leaf, copy in pairs:
        chunk.append((leaf, copy))
        if sum(each.nbytes for each, _ in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise NumberError(f"the loss became {loss}")
