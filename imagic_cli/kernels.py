"""Triton kernels for what a denoiser in half precision spends on a GPU beside its products.

torch's group norm turns a picture with channels last around and back, and a gated GELU and its gradient are six passes
over the widest tensors there are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

# A tile of a picture: pixels by channels; of sums, chunks of pixels by the channels of a group.
_PIXELS, _CHANNELS, _CHUNKS = 64, 64, 32
MOST_IN_GROUP = 128
# Numbers of a row, and rows by columns, that one program treats at a time.
_GATED = 1024
_ROWS, _COLUMNS = 128, 16


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm of pictures, (N, C, h, w), and then SiLU if `silu`.

    Returns:
        The pictures, channels last, and what the gradient needs: each channel's factor and addend, (N, 2, C), and each
        group's mean and reciprocal deviation, (N, groups, 2), in fp32.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, size, chunks, grid = _tiles(x)
    sums, line = _wide(x, count, chunks, 2, channels), _wide(x, count, 2, channels)
    moments = _wide(x, count, groups, 2)
    y = torch.empty_like(x)
    _sums[grid](x, sums, size, channels, _PIXELS, _CHANNELS)
    of = chunks, channels // groups, size, channels
    _line[groups, count](sums, weight, bias, line, moments, *of, eps, MOST_IN_GROUP, _CHUNKS)
    _apply[grid](x, line, y, size, channels, int(silu), _PIXELS, _CHANNELS)
    return y, line, moments


def group_norm_gradient(
    outer: Tensor, x: Tensor, weight: Tensor, line: Tensor, moments: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of what `group_norm` gave those of its picture, weight and bias."""
    x, outer = (each.contiguous(memory_format=torch.channels_last) for each in (x, outer))
    count, channels, size, chunks, grid = _tiles(x)
    groups = moments.shape[1]
    sums, curve = _wide(x, count, chunks, 2, channels), torch.empty_like(line)
    inner, by_weight, by_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    _gradient_sums[grid](x, outer, line, sums, size, channels, int(silu), _PIXELS, _CHANNELS)
    of = chunks, channels // groups, size, channels, count
    _curve[groups,](sums, weight, moments, curve, by_weight, by_bias, *of, MOST_IN_GROUP, _CHUNKS)
    _gradient_apply[grid](x, outer, line, curve, inner, size, channels, int(silu), _PIXELS, _CHANNELS)
    return inner, by_weight, by_bias


def gated_gelu(both: Tensor) -> Tensor:
    """a * gelu(b) of rows that hold a beside b: (..., 2 C) -> (..., C)."""
    both = both.contiguous()
    inner = both.shape[-1] // 2
    y = both.new_empty(*both.shape[:-1], inner)
    _gated[y.numel() // inner, triton.cdiv(inner, _GATED)](both, y, inner, _GATED)
    return y


def gated_gelu_gradient(outer: Tensor, both: Tensor) -> Tensor:
    """From the gradient of what `gated_gelu` gave, (..., C), that of its rows, (..., 2 C)."""
    both, outer = both.contiguous(), outer.contiguous()
    inner = outer.shape[-1]
    gradient = torch.empty_like(both)
    _gated_gradient[outer.numel() // inner, triton.cdiv(inner, _GATED)](both, outer, gradient, inner, _GATED)
    return gradient


def column_sum(x: Tensor) -> Tensor:
    """Of rows, (N, C), or of the channels of pictures, (N, C, h, w): (C,)."""
    rows = x.contiguous() if x.dim() == 2 else x.contiguous(memory_format=torch.channels_last)
    channels = x.shape[1]
    y = x.new_empty(channels)
    grid = (triton.cdiv(channels, _COLUMNS),)
    _column_sums[grid](rows, y, x.numel() // channels, channels, _ROWS, _COLUMNS, num_warps=8)
    return y


def builds(dtype: torch.dtype, device: torch.device) -> list[Callable[[], object]]:
    """What has the kernels compiled, each by itself, for sizes that 16 divides."""
    x = torch.zeros(1, 64, 4, 4, dtype=dtype, device=device)
    weight, rows = x.new_zeros(64), x.new_zeros(16, 64)
    line, moments = _wide(x, 1, 2, 64), _wide(x, 1, 32, 2)
    return [
        partial(group_norm, x, weight, weight, 32, 1e-5, True),
        partial(group_norm_gradient, x, x, weight, line, moments, True),
        partial(gated_gelu, rows),
        partial(gated_gelu_gradient, rows[:, :32], rows),
        partial(column_sum, rows),
    ]


def _wide(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _tiles(x: Tensor) -> tuple[int, int, int, int, tuple[int, int, int]]:
    count, channels, height, width = x.shape
    chunks = triton.cdiv(height * width, _PIXELS)
    return count, channels, height * width, chunks, (chunks, triton.cdiv(channels, _CHANNELS), count)


@triton.jit
def _tile(size, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (pixel < size)[:, None] & (channel < channels)[None, :]
    return (tl.program_id(2) * size + pixel)[:, None] * channels + channel[None, :], inside


@triton.jit
def _pair(table, channels, CHANNELS: tl.constexpr):
    # Of (N, 2, C), for the image and the channels of this program.
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = table + tl.program_id(2) * 2 * channels + channel
    inside = channel < channels
    return tl.load(row, inside, 0.0)[None, :], tl.load(row + channels, inside, 0.0)[None, :]


@triton.jit
def _keep(sums, first, second, channels, CHANNELS: tl.constexpr):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = sums + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + channel
    tl.store(row, tl.sum(first, 0), channel < channels)
    tl.store(row + channels, tl.sum(second, 0), channel < channels)


@triton.jit
def _through(outer, z, silu):
    # The gradient of SiLU's argument, or of what has none.
    s = 1 / (1 + tl.exp(-z))
    return tl.where(silu != 0, outer * s * (1 + z * (1 - s)), outer)


@triton.jit(do_not_specialize=["silu"])
def _apply(x, line, y, size, channels, silu, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    place, inside = _tile(size, channels, PIXELS, CHANNELS)
    factor, addend = _pair(line, channels, CHANNELS)
    z = tl.load(x + place, inside, 0.0).to(tl.float32) * factor + addend
    z = tl.where(silu != 0, z / (1 + tl.exp(-z)), z)
    tl.store(y + place, z.to(y.dtype.element_ty), inside)


@triton.jit
def _sums(x, sums, size, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    place, inside = _tile(size, channels, PIXELS, CHANNELS)
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    _keep(sums, value, value * value, channels, CHANNELS)


@triton.jit(do_not_specialize=["silu"])
def _gradient_sums(x, outer, line, sums, size, channels, silu, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    place, inside = _tile(size, channels, PIXELS, CHANNELS)
    factor, addend = _pair(line, channels, CHANNELS)
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    gradient = _through(tl.load(outer + place, inside, 0.0).to(tl.float32), value * factor + addend, silu)
    _keep(sums, gradient, gradient * value, channels, CHANNELS)


@triton.jit(do_not_specialize=["silu"])
def _gradient_apply(x, outer, line, curve, inner, size, channels, silu, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    place, inside = _tile(size, channels, PIXELS, CHANNELS)
    factor, addend = _pair(line, channels, CHANNELS)
    slope, constant = _pair(curve, channels, CHANNELS)
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    gradient = _through(tl.load(outer + place, inside, 0.0).to(tl.float32), value * factor + addend, silu)
    gradient = factor * gradient + slope * value + constant
    tl.store(inner + place, gradient.to(inner.dtype.element_ty), inside)


@triton.jit
def _added(sums, chunks, members, channels, image, GROUP: tl.constexpr, CHUNKS: tl.constexpr):
    # Of an image, over all its pixels: two sums for each channel of this program's group.
    member = tl.arange(0, GROUP)
    channel = tl.program_id(0) * members + member
    first = tl.zeros([GROUP], tl.float32)
    second = tl.zeros([GROUP], tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        inside = (chunk < chunks)[:, None] & (member < members)[None, :]
        row = sums + (image * chunks + chunk)[:, None] * 2 * channels + channel[None, :]
        first += tl.sum(tl.load(row, inside, 0.0), 0)
        second += tl.sum(tl.load(row + channels, inside, 0.0), 0)
    return first, second


@triton.jit(do_not_specialize=["chunks", "members"])
def _line(
    sums, weight, bias, line, moments, chunks, members, size, channels, eps, GROUP: tl.constexpr, CHUNKS: tl.constexpr
):
    image = tl.program_id(1)
    first, second = _added(sums, chunks, members, channels, image, GROUP, CHUNKS)
    mean = tl.sum(first, 0) / (members * size)
    rate = 1 / tl.sqrt(tl.maximum(tl.sum(second, 0) / (members * size) - mean * mean, 0.0) + eps)
    member = tl.arange(0, GROUP)
    channel, inside = tl.program_id(0) * members + member, member < members
    factor = tl.load(weight + channel, inside, 0.0).to(tl.float32) * rate
    addend = tl.load(bias + channel, inside, 0.0).to(tl.float32) - mean * factor
    tl.store(line + image * 2 * channels + channel, factor, inside)
    tl.store(line + (image * 2 + 1) * channels + channel, addend, inside)
    at = moments + (image * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(at, mean)
    tl.store(at + 1, rate)


@triton.jit(do_not_specialize=["chunks", "members", "images"])
def _curve(
    sums,
    weight,
    moments,
    curve,
    by_weight,
    by_bias,
    chunks,
    members,
    size,
    channels,
    images,
    GROUP: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    member = tl.arange(0, GROUP)
    channel, inside = tl.program_id(0) * members + member, member < members
    gamma = tl.load(weight + channel, inside, 0.0).to(tl.float32)
    gamma_gradient = tl.zeros([GROUP], tl.float32)
    beta_gradient = tl.zeros([GROUP], tl.float32)
    for image in range(images):
        first, second = _added(sums, chunks, members, channels, image, GROUP, CHUNKS)
        at = moments + (image * tl.num_programs(0) + tl.program_id(0)) * 2
        mean, rate = tl.load(at), tl.load(at + 1)
        beta_gradient += first
        gamma_gradient += (second - mean * first) * rate
        low, high = tl.sum(gamma * first, 0), tl.sum(gamma * second, 0)
        slope = (low * mean - high) * rate * rate * rate / (members * size)
        constant = -slope * mean - low * rate / (members * size)
        row = curve + image * 2 * channels + channel
        tl.store(row, tl.zeros([GROUP], tl.float32) + slope, inside)
        tl.store(row + channels, tl.zeros([GROUP], tl.float32) + constant, inside)
    tl.store(by_weight + channel, gamma_gradient.to(by_weight.dtype.element_ty), inside)
    tl.store(by_bias + channel, beta_gradient.to(by_bias.dtype.element_ty), inside)


@triton.jit
def _gated(both, y, inner, NUMBERS: tl.constexpr):
    place = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    inside = place < inner
    at = both + tl.program_id(0) * 2 * inner + place
    gate = tl.load(at + inner, inside, 0.0).to(tl.float32)
    gelu = 0.5 * gate * (1 + tl.math.erf(gate * 0.7071067811865476))
    found = tl.load(at, inside, 0.0).to(tl.float32) * gelu
    tl.store(y + tl.program_id(0) * inner + place, found.to(y.dtype.element_ty), inside)


@triton.jit
def _gated_gradient(both, outer, gradient, inner, NUMBERS: tl.constexpr):
    place = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    inside = place < inner
    at = tl.program_id(0) * 2 * inner + place
    hidden = tl.load(both + at, inside, 0.0).to(tl.float32)
    gate = tl.load(both + at + inner, inside, 0.0).to(tl.float32)
    above = tl.load(outer + tl.program_id(0) * inner + place, inside, 0.0).to(tl.float32)
    below = 0.5 * (1 + tl.math.erf(gate * 0.7071067811865476))
    slope = below + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(gradient + at, (above * gate * below).to(gradient.dtype.element_ty), inside)
    tl.store(gradient + at + inner, (above * hidden * slope).to(gradient.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["count"])
def _column_sums(x, y, count, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < count)[:, None] & (channel < channels)[None, :]
        total += tl.load(x + row[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32)
    tl.store(y + channel, tl.sum(total, 0).to(y.dtype.element_ty), channel < channels)
