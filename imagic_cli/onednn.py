"""The convolutions and products of what was recorded by oneDNN, where what torch makes of small ones is slower.

What torch gives to oneDNN has its weights brought into oneDNN's order anew at each call, which with a small picture is
half of the work; weights that stay as they are can be brought there once. Matrices it multiplies with a library of
Intel's, which takes no AVX-512 on AMD's: where they have it, half of their width stays unused. Small convolutions it
makes out of such products.
"""

from __future__ import annotations

import platform
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from imagic_cli.processor import is_halved
from imagic_cli.recording import Recording, simplify

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

# With fewer multiplications a product is not so much faster that it is worth the half MiB that oneDNN keeps for each
# shape; a larger picture torch itself gives to oneDNN.
_PRODUCT, _PICTURE = 1 << 22, 20480
_MEASURED = {"x86_64", "amd64"}


def is_there() -> bool:
    """Whether this torch has oneDNN, and the processor is of the kind that it was measured on here."""
    return torch.backends.mkldnn.is_available() and platform.machine().lower() in _MEASURED


def hasten(recording: Recording) -> None:
    """Rewrite what of a recording is in fp32, where oneDNN is there."""
    if is_there():
        _Rewriting(recording, products=is_halved()).all()


class _Rewriting:
    """Of frozen convolutions, and, if `products`, of products and of small convolutions that are trained."""

    def __init__(self, recording: Recording, products: bool) -> None:
        self.recording = recording
        self.products = products
        self.values = recording.values
        self.packed: dict[tuple[object, ...], Tensor] = {}
        """Weights in oneDNN's order."""

    def all(self) -> None:
        for node in self.recording.operations():
            arguments: tuple[Any, ...] = node.args
            if node.target == aten.mm.default:
                self._product(node, *arguments)
            elif node.target == aten.addmm.default and not node.kwargs:
                bias, left, right = arguments
                self._product(node, left, right, bias)
            elif node.target == aten.convolution.default:
                self._convolution(node, *arguments)
            elif node.target == aten.convolution_backward.default:
                self._gradients(node, *arguments)
        simplify(self.recording)

    def _product(self, node: Node, left: Node, right: Node, bias: Node | None = None) -> None:
        a, b = self.values[left], self.values[right]
        if not self.products or a.numel() * b.shape[1] < _PRODUCT or a.dtype != torch.float32:
            return
        if self.recording.is_frozen(right):
            key = "product", *_memory(b), len(a)
            if key not in self.packed:
                self.packed[key] = mkldnn._reorder_linear_weight(b.t().contiguous(), len(a))
            weight = self.recording.constant(node, self.packed[key])
        else:
            weight = self.recording.before(node, aten.t.default, right)
        self.recording.replace(node, self.recording.before(node, linear, left, weight, bias))

    def _convolution(self, node: Node, picture: Node, weight: Node, bias: Node | None, *form: Any) -> None:
        x, w = self.values[picture], self.values[weight]
        transposed, groups = form[3], form[5]
        if x.dtype != torch.float32 or not _is_channels_last(self.values[node]):
            return
        if self.recording.is_frozen(weight) and not transposed and groups == 1:
            self.recording.replace(node, self._by_frozen(node, picture, weight, bias, form))
        elif self.products and _is_small(x, w, form):
            self.recording.replace(node, self.recording.before(node, convolution, picture, weight, bias))

    def _gradients(self, node: Node, outer: Node, picture: Node, weight: Node, _: Any, *rest: Any) -> None:
        *form, wanted = rest
        parts = {user.args[1]: user for user in node.users}
        w = self.values[weight]
        if w.dtype != torch.float32 or (0 in parts and not _is_channels_last(self.values[parts[0]])):
            return
        if self.recording.is_frozen(weight) and wanted == [True, False, False] and _keeps_size(w, form):
            self.recording.replace(parts[0], self._by_frozen(node, outer, weight, None, form, turned=True))
        elif self.products and _is_small(self.values[picture], w, form):
            of: dict[Any, tuple[Any, ...]] = {
                0: (inner_gradient, outer, weight),
                1: (weight_gradient, outer, picture, w.shape[2]),
                2: (aten.sum.dim_IntList, outer, [0, 2, 3]),
            }
            for place, part in parts.items():
                self.recording.replace(part, self.recording.before(node, *of[place]))

    def _by_frozen(
        self, node: Node, picture: Node, weight: Node, bias: Node | None, form: Any, turned: bool = False
    ) -> Node:
        """By a weight that nothing changes, or if `turned` the gradient of that, which is a convolution too."""
        picture = self._source(picture)
        x, w = self.values[picture], self.values[weight]
        if _is_pointwise(x, w, form):
            return self._product_of_pixels(node, picture, _flat(w) if turned else _flat(w).t(), bias)
        stride, padding, dilation, _, _, groups = form
        shape = list(x.shape)
        key = "convolution", *_memory(w), turned, tuple(shape)
        if key not in self.packed:
            if turned:
                w = w.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            self.packed[key] = mkldnn._reorder_convolution_weight(w, padding, stride, dilation, groups, shape)
        packed = self.recording.constant(node, self.packed[key])
        how: tuple[Any, ...] = (padding, stride, dilation, groups, "none", [], "")
        return self.recording.before(node, mkldnn._convolution_pointwise.default, picture, packed, bias, *how)

    def _source(self, picture: Node) -> Node:
        """What it is a copy of, where that has the order that is wanted here: channels last."""
        copied = picture.args[0] if picture.target == aten.clone.default else None
        return copied if isinstance(copied, Node) and _is_channels_last(self.values[copied]) else picture

    def _product_of_pixels(self, node: Node, picture: Node, weight: Tensor, bias: Node | None) -> Node:
        """Each pixel's channels by a weight, (in, out)."""
        batch, channels, height, width = self.values[picture].shape
        # Not by a function of ours as the products below: it would take a seventieth of a step of A.
        before = partial(self.recording.before, node)
        rows = before(aten.view.default, before(aten.permute.default, picture, [0, 2, 3, 1]), [-1, channels])
        factors = rows, self.recording.constant(node, weight)
        product = before(aten.mm.default, *factors) if bias is None else before(aten.addmm.default, bias, *factors)
        pixels = before(aten.view.default, product, [batch, height, width, -1])
        return before(aten.permute.default, pixels, [0, 3, 1, 2])


def _memory(tensor: Tensor) -> tuple[object, ...]:
    # Not its id: with gradient checkpointing each pass makes a view of its own.
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_channels_last(x: Tensor) -> bool:
    # As what a convolution here gives: what follows may have been recorded for another order.
    return x.is_contiguous(memory_format=torch.channels_last)


def _is_pointwise(x: Tensor, weight: Tensor, form: Any) -> bool:
    """Whether it is a small product of pixels that lie in rows: what surrounds a convolution takes longer."""
    plain = weight.shape[2:] == (1, 1) and _keeps_size(weight, form)
    return plain and _is_channels_last(x) and x.numel() // x.shape[1] * weight.numel() < _PRODUCT


def _keeps_size(weight: Tensor, form: Any) -> bool:
    """Whether it is a convolution of stride 1 whose result is as large as its picture."""
    height, width = weight.shape[2:]
    plain = list(form) == [[1, 1], [height // 2, width // 2], [1, 1], False, [0, 0], 1]
    return plain and height % 2 == width % 2 == 1


def _is_small(x: Tensor, weight: Tensor, form: Any) -> bool:
    alone = len(x) == 1 and x.numel() <= _PICTURE
    return alone and weight.shape[2:] in {(1, 1), (3, 3)} and _keeps_size(weight, form)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias: (N, in) and (out, in), as it is or in oneDNN's order, -> (N, out)."""
    if x.numel() * weight.shape[0] < _PRODUCT:
        return nn.functional.linear(x, weight, bias)
    product: Tensor = mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return product


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of kernel k = 1 or 3, keeping the size: (1, in, h, w) and (out, in, k, k) -> (1, out, h, w), channels last."""
    return _picture(linear(_windows(x, weight.shape[2]), _flat(weight), bias), x)


def inner_gradient(outer: Tensor, weight: Tensor) -> Tensor:
    """From the gradient (1, out, h, w) of such a convolution's result that of its picture, (1, in, h, w)."""
    _, _, height, width = outer.shape
    windows = linear(_rows(outer), _flat(weight).t())
    if weight.shape[2] == 1:
        return _picture(windows, outer)
    windows = windows.view(height, width, 3, 3, -1)
    # What overlaps is added along the rows, then along the columns.
    rows = outer.new_zeros(height, width + 2, 3, weight.shape[1])
    for right in range(3):
        rows[:, right : right + width].add_(windows[:, :, :, right])
    padded = outer.new_zeros(height + 2, width + 2, weight.shape[1])
    for down in range(3):
        padded[down : down + height].add_(rows[:, :, down])
    return padded[1:-1, 1:-1].permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)


def weight_gradient(outer: Tensor, x: Tensor, kernel: int) -> Tensor:
    """That of its weight, (out, in, k, k)."""
    product = linear(_rows(outer).t(), _windows(x, kernel).t())
    return product.view(outer.shape[1], kernel, kernel, -1).permute(0, 3, 1, 2)


def _windows(x: Tensor, kernel: int) -> Tensor:
    """What the kernel sees at each pixel, (h w, k k in)."""
    if kernel == 1:
        return _rows(x)
    _, channels, height, width = x.shape
    padded = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    row = (width + 2) * channels
    # Three pixels beside each other are one piece of memory.
    windows = padded.as_strided((height, width, 3, 3 * channels), (row, channels, row, 1))
    return windows.reshape(height * width, 9 * channels)


def _rows(x: Tensor) -> Tensor:
    """(1, c, h, w) -> (h w, c)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    """(h w, c) -> (1, c, h, w)."""
    return rows.view(1, *like.shape[2:], -1).permute(0, 3, 1, 2)


def _flat(weight: Tensor) -> Tensor:
    """(out, in, k, k) -> (out, k k in)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
