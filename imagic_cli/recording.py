"""What a network does, as the tensor operations that it comes to, without modules and autograd around them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten


class NotRecordableError(Exception):
    """What was to be recorded would not be the same again."""


@dataclass(frozen=True)
class Recording:
    """The operations of a training step, or of a forward pass, in their order.

    Attributes:
        graph: they. What it gives is the loss and the gradient of each leaf, or None; or what the pass gives. What no
            operation made and is no input is a "get_attr" node.
        leaves: the nodes of what is trained.
        values: what a "get_attr" node is; of an operation whose result is a tensor one without memory, of its shape and
            strides. Not with the nodes, for these hold each other until some collection, and would hold the weights.
    """

    graph: Graph
    leaves: list[Node]
    values: dict[Node, Tensor]

    def operations(self) -> list[Node]:
        """All of them, in order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def is_frozen(self, node: object) -> bool:
        """Whether it is a tensor that nothing changes."""
        return isinstance(node, Node) and node.op == "get_attr" and node not in self._live

    @cached_property
    def _live(self) -> frozenset[Node]:
        return frozenset(self.leaves)

    def replace(self, node: Node, other: Node) -> None:
        """Put another in the place of an operation."""
        if node in self.values:
            self.values.setdefault(other, self.values[node])
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)

    def before(self, node: Node, function: Callable[..., Any], *arguments: Any) -> Node:
        """A new operation before another one."""
        with self.graph.inserting_before(node):
            return self.graph.call_function(function, arguments)

    def constant(self, node: Node, value: Tensor) -> Node:
        """A new tensor, there before an operation."""
        with self.graph.inserting_before(node):
            return self.holding(value)

    def holding(self, value: Tensor) -> Node:
        """A tensor, there from where the graph is written on."""
        node = self.graph.create_node("get_attr", "constant")
        node.target = node.name
        self.values[node] = value
        return node


def record(inputs: Sequence[Tensor], leaves: Sequence[Tensor], loss: Callable[[], Tensor]) -> Recording:
    """Write down what a loss and its gradients are computed by.

    Args:
        inputs: what differs from step to step. The rest that the loss reads, apart from the leaves, stays as it is.
        leaves: what it is differentiated by.
        loss: the loss of those very inputs.

    Raises:
        NotRecordableError: it reads a number out of a tensor by `item`, or changes one in place. What leaves torch by
            `tolist` or `numpy` is not noticed.
    """
    recorder = _Recorder(inputs, leaves)
    with recorder:
        value = loss()
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return recorder.ended((value, *gradients))


def record_pass(inputs: Sequence[Tensor], forward: Callable[[], Sequence[Tensor]]) -> Recording:
    """Write down what a pass over those very inputs computes its result by; nothing is trained.

    Raises:
        NotRecordableError: as `record`.
    """
    recorder = _Recorder(inputs, ())
    with torch.no_grad(), recorder:
        values = forward()
    return recorder.ended(values)


class _Recorder(TorchDispatchMode):
    """Sees each operation below autograd, with the tensors that it is given."""

    def __init__(self, inputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording(Graph(), [], {})
        # Of what may differ from time to time. Weakly: a step never holds all its results at once.
        self.nodes = WeakTensorKeyDictionary()
        self.frozen: dict[int, Node] = {}
        for place, each in enumerate(inputs):
            self._is(each, self.recording.graph.placeholder(f"input_{place}"))
        for each in leaves:
            self.nodes[each] = self.recording.holding(each)
            self.recording.leaves.append(self.nodes[each])

    def ended(self, values: Sequence[Tensor | None]) -> Recording:
        """What was seen, as far as the values come of it."""
        self.recording.graph.output(tuple(map(self._node, values)))
        simplify(self.recording)
        return self.recording

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in func.tags or func._schema.is_mutable:
            raise NotRecordableError(func)
        given = args, dict(kwargs or {})
        found = func(*given[0], **given[1])
        # What comes of nothing that differs is the same at every step: what reads it takes it as it is.
        if not isinstance(found, Tensor | Sequence) or not self._differs(given):
            return found
        node = self.recording.graph.call_function(func, *map_aggregate(given, self._node))
        if isinstance(found, Tensor):
            self._is(found, node)
        else:
            for place, each in enumerate(found):
                if isinstance(each, Tensor):
                    self._is(each, self.recording.graph.call_function(operator.getitem, (node, place)))
        return found

    def _differs(self, given: Any) -> bool:
        tensors: list[Tensor] = []
        map_aggregate(given, lambda each: tensors.append(each) if isinstance(each, Tensor) else None)
        return any(each in self.nodes for each in tensors)

    def _node(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value in self.nodes:
            return self.nodes[value]
        # It is kept, so no other tensor is given its id.
        if id(value) not in self.frozen:
            self.frozen[id(value)] = self.recording.holding(value)
        return self.frozen[id(value)]

    def _is(self, value: Tensor, node: Node) -> None:
        self.nodes[value] = node
        like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        self.recording.values[node] = like


def simplify(recording: Recording) -> None:
    """Leave out what changes no number."""
    for node in recording.operations():
        first = node.args[0] if node.args else None
        if isinstance(first, Node) and _is_idle(recording, node):
            recording.replace(node, first)
        elif isinstance(first, Node) and node.target == first.target == aten.t.default:
            assert isinstance(first.args[0], Node)
            recording.replace(node, first.args[0])
    recording.graph.eliminate_dead_code()


def _is_idle(recording: Recording, node: Node) -> bool:
    if node.target == aten.detach.default:
        return True
    if node.target != aten.div.Tensor or not isinstance(node.args[0], Node):
        return False
    by, before, after = node.args[1], recording.values[node.args[0]], recording.values[node]
    # Else it lays its result out otherwise than what it divides, or makes a fraction of a whole number.
    same = before.stride() == after.stride() and before.dtype == after.dtype
    return isinstance(by, int | float) and by == 1 and same
