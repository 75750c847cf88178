"""What was recorded of a half-precision denoiser with fewer passes over its tensors, on a GPU.

There a step at batch 1 is thousands of kernels, most of which read and write a tensor for an operation or two.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.functional import linear

from imagic_cli.recording import Recording, simplify

aten = torch.ops.aten

# Of the norm of what torch's kernels give, and of the norm of all of it. The rounding of bf16 comes to a part of this.
_WITHIN, _LITTLE = 0.1, 0.002
_HALVES = {torch.float16, torch.bfloat16}
# Of a convolution: stride, padding, dilation, not transposed, groups.
_POINTWISE = [[1, 1], [0, 0], [1, 1], False, [0, 0], 1]


@functools.cache
def is_there() -> bool:
    """Whether Triton is, which comes with torch for CUDA on Linux, and the C compiler that it wants."""
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return False
    device = torch.device("cuda")
    try:
        from imagic_cli import adam, kernels

        for build in adam.builds(torch.float16, device):
            build()
        return bool(kernels.column_sum(torch.ones(2, 1, dtype=torch.float16, device=device)).item() == 2)
    except Exception:  # Whatever its compilers say: there are torch's kernels.
        return False


def is_close(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> bool:
    """Whether what was fused gives what torch's kernels give: each tensor, or what it is a little part of."""
    if any((mine is None) is not (theirs is None) for mine, theirs in zip(found, wanted, strict=True)):
        return False
    pairs = [(m.float(), w.float()) for m, w in zip(found, wanted, strict=True) if m is not None and w is not None]
    norms = [theirs.norm().item() for _, theirs in pairs]
    little = _LITTLE * math.hypot(*norms)
    fars = [(mine - theirs).norm().item() for mine, theirs in pairs]
    return math.isfinite(little) and all(far <= _WITHIN * norm + little for far, norm in zip(fars, norms, strict=True))


def fuse(recording: Recording) -> None:
    """Rewrite what is in half precision. Results have channels last where they had not."""
    _Fusing(recording).all()


class _Fusing:
    def __init__(self, recording: Recording) -> None:
        # Where Triton is not, this cannot be imported.
        from imagic_cli import kernels

        self.kernels = kernels
        self.recording = recording
        self.values = recording.values
        self.sums: dict[Node, Node] = {}

    def all(self) -> None:
        works: dict[object, Callable[..., None]] = {
            aten.native_group_norm.default: self._group_norm,
            aten.gelu.default: self._gated,
            aten.convolution.default: self._convolution,
            aten.convolution_backward.default: self._gradients,
            aten.sum.dim_IntList: self._sum,
        }
        self._merge()
        for node in self.recording.operations():
            if node.target in works and node.users:
                works[node.target](node, *node.args)
        simplify(self.recording)

    def _merge(self) -> None:
        """Compute once what is computed twice: each block of a denoiser asks anew for SiLU of the time's embedding."""
        known: dict[object, Node] = {}
        for node in self.recording.operations():
            what = repr((node.target, node.args, node.kwargs))
            if what in known:
                self.recording.replace(node, known[what])
            else:
                known[what] = node

    def _group_norm(self, node: Node, picture: Node, weight: Node, bias: Node, *rest: Any) -> None:
        picture, groups, eps = _source(picture), rest[3], rest[4]
        x = self.values[picture]
        if not self._is_half(picture, weight, bias) or x.dim() != 4 or x.shape[1] > groups * self.kernels.MOST_IN_GROUP:
            return
        parts = _parts(node)
        if 0 not in parts:
            return
        gradient = _user(parts.get(1), aten.native_group_norm_backward.default)
        outer = None if gradient is None else _source(gradient.args[0])
        silu, unsilu = (_user(parts[0], each) for each in (aten.silu.default, aten.silu_backward.default))
        # Else somebody reads what is between the two.
        fused = silu is not None and set(parts[0].users) == {silu, unsilu} - {None} and outer is unsilu
        before = functools.partial(self.recording.before, node)
        made = before(self.kernels.group_norm, picture, weight, bias, groups, eps, fused)
        y, line, moments = (before(operator.getitem, made, place) for place in range(3))
        self.values[y] = x
        self.recording.replace(silu if silu is not None and fused else parts[0], y)
        if gradient is not None and outer is not None:
            before = functools.partial(self.recording.before, gradient)
            above = outer.args[0] if fused else outer
            made = before(self.kernels.group_norm_gradient, above, picture, weight, line, moments, fused)
            for place, part in _parts(gradient).items():
                self.recording.replace(part, before(operator.getitem, made, place))

    def _gated(self, node: Node, gate: Node) -> None:
        halves: Any = gate.args[0] if gate.args else None
        parts = _parts(halves) if isinstance(halves, Node) and halves.target == aten.split.Tensor else {}
        if node.kwargs or not self._is_half(gate) or len(parts) != 2 or parts.get(1) is not gate:
            return
        rows, hidden = halves.args[0], parts[0]
        last = self.values[rows].dim() - 1
        product = _reader(node, aten.mul.Tensor, hidden)
        if product is None or halves.args[2:] not in ((-1,), (last,)):
            return
        self.recording.replace(product, self.recording.before(product, self.kernels.gated_gelu, rows))
        back = _user(gate, aten.gelu_backward.default)
        joined = _user(back, aten.cat.default)
        if (
            back is None
            or joined is None
            or joined.args[1:] not in ((-1,), (last,))
            or (outer := _other(back.args[0], hidden)) is None
        ):
            return
        if [*joined.args[0]] == [_reader(node, aten.mul.Tensor, outer), back]:  # type: ignore[misc]
            gradient = self.recording.before(joined, self.kernels.gated_gelu_gradient, outer, rows)
            self.recording.replace(joined, gradient)

    def _convolution(self, node: Node, picture: Node, weight: Node, bias: Node | None, *form: Any) -> None:
        if self._is_half(picture, weight) and self._is_pointwise(weight, form):
            self.recording.replace(node, self.recording.before(node, pointwise, _source(picture), weight, bias))

    def _gradients(self, node: Node, outer: Node, picture: Node, weight: Node, biases: Any, *rest: Any) -> None:
        *form, wanted = rest
        parts = _parts(node)
        if not self._is_half(outer, weight):
            return
        if 2 in parts:
            self.recording.replace(parts.pop(2), self._summed(node, outer))
            node.args = (outer, picture, weight, biases, *form, [*wanted[:2], False])
        if self._is_pointwise(weight, form):
            of: list[tuple[Any, ...]] = [(pointwise_inner, outer, weight), (pointwise_weight, outer, picture, weight)]
            for place, part in parts.items():
                self.recording.replace(part, self.recording.before(node, *of[place]))

    def _sum(self, node: Node, x: Node, dimensions: list[int], keep: bool = False) -> None:
        shape = self.values[x].shape
        if node.kwargs or not self._is_half(x) or not keep:
            return
        if (len(shape), dimensions) == (2, [0]) or (len(shape), shape[0], dimensions) == (4, 1, [2, 3]):
            view = self.recording.before(node, aten.view.default, self._summed(node, x), list(self.values[node].shape))
            self.recording.replace(node, view)

    def _summed(self, node: Node, x: Node) -> Node:
        # What is added to a convolution's result for each channel has the gradient of its bias.
        if x not in self.sums:
            self.sums[x] = self.recording.before(node, self.kernels.column_sum, x)
        return self.sums[x]

    def _is_half(self, *nodes: Any) -> bool:
        known = all(isinstance(node, Node) and node in self.values for node in nodes)
        return bool(nodes) and known and all(self.values[node].dtype in _HALVES for node in nodes)

    def _is_pointwise(self, weight: Node, form: Any) -> bool:
        return self.values[weight].shape[2:] == (1, 1) and list(form) == _POINTWISE


def _source(picture: Any) -> Node:
    """What it is a copy of in another order."""
    source: Node = picture.args[0] if picture.target == aten.clone.default else picture
    return source


def _parts(node: Node) -> dict[Any, Node]:
    """Of an operation's results those that are read, by place."""
    return {user.args[1]: user for user in node.users if user.target is operator.getitem and user.users}


def _user(node: Node | None, target: object) -> Node | None:
    """The one operation of a kind that reads a node."""
    found = [user for user in node.users if user.target == target] if node is not None else []
    return found[0] if len(found) == 1 else None


def _reader(node: Node, target: object, other: Node) -> Node | None:
    """The operation of a kind that reads two nodes."""
    found = [user for user in node.users if user.target == target and {*user.args} == {node, other}]
    return found[0] if len(found) == 1 else None


def _other(product: Any, factor: Node) -> Node | None:
    """What a product multiplies a factor by."""
    others = {*product.args} - {factor} if product.target == aten.mul.Tensor and factor in product.args else set()
    return others.pop() if len(others) == 1 else None


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of one pixel: (N, in, h, w) and (out, in, 1, 1) -> (N, out, h, w)."""
    return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def pointwise_inner(outer: Tensor, weight: Tensor) -> Tensor:
    """From the gradient (N, out, h, w) of its result that of its picture, (N, in, h, w)."""
    return (outer.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2)


def pointwise_weight(outer: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """That of its weight, laid out like it."""
    rows, outer_rows = (each.permute(0, 2, 3, 1).reshape(-1, each.shape[1]) for each in (x, outer))
    return (outer_rows.t() @ rows).as_strided(weight.shape, weight.stride())
