"""What was recorded as a Python function of the operations alone."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from imagic_cli.recording import Recording


def program(
    recording: Recording,
    on_loss: Callable[[Tensor], None],
    on_gradient: Callable[[int, Tensor], None],
) -> Callable[..., Tensor]:
    """What makes a recorded step for other inputs and gives the loss. The recording is used up.

    Args:
        recording: of a step.
        on_loss: is told the loss before any gradient is computed.
        on_gradient: is told a leaf's place and its gradient, laid out like the leaf, as soon as nothing that is still
            to come reads the leaf: it may be changed then.
    """
    strides = [recording.values[leaf].stride() for leaf in recording.leaves]

    # By name: what a graph calls must be a function that has one.
    def loss_is(loss: Tensor) -> None:
        on_loss(loss)

    def gradient_is(place: int, gradient: Tensor) -> None:
        if gradient.stride() != strides[place]:
            laid_out = gradient.new_empty_strided(gradient.shape, strides[place])
            gradient = laid_out.copy_(gradient)
        on_gradient(place, gradient)

    graph = recording.graph
    order = {node: place for place, node in enumerate(graph.nodes)}
    output: Any = graph.output_node()
    loss, *gradients = output.args[0]
    with graph.inserting_after(loss):
        graph.call_function(loss_is, (loss,))
    for place, leaf in enumerate(recording.leaves):
        if gradients[place] is not None:
            with graph.inserting_after(max((gradients[place], *_readers(leaf)), key=order.__getitem__)):
                graph.call_function(gradient_is, (place, gradients[place]))
    output.args = (loss,)
    return compiled(recording)


def compiled(recording: Recording) -> Callable[..., Any]:
    """A function from other inputs to what a recording gives."""
    graph = recording.graph
    # Not as a torch.fx.GraphModule: what that compiles is kept for as long as the process lives.
    constants = {node.target: recording.values[node] for node in graph.nodes if node.op == "get_attr"}
    code = graph.python_code("self")
    space = dict(code.globals)

    def called_directly(match: re.Match[str]) -> str:
        library, name, overload = match.groups()
        space[f"{library}_{name}_{overload}"] = getattr(getattr(getattr(torch.ops, library), name), overload)._op
        return f"{library}_{name}_{overload}("

    # What an operator is looked up by, and the Python function around it, cost as much as the smallest ones take.
    source = re.sub(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)\(", called_directly, code.src)
    exec(compile(source, __name__, "exec"), space)
    return partial(space["forward"], SimpleNamespace(**constants))


def _readers(node: Node) -> Iterator[Node]:
    """What reads a tensor or a view of it."""
    for user in node.users:
        yield user
        if user.target is operator.getitem or _is_view(user.target):
            yield from _readers(user)


def _is_view(function: object) -> bool:
    return isinstance(function, OpOverload) and any(each.alias_info is not None for each in function._schema.returns)
