"""A fused recording gives the numbers of the plain one: its structure on any machine, by torch in place of Triton; its
kernels on a CUDA device."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_replay import MODELS, Case
from torch import Tensor
from torch.nn.functional import gelu, group_norm, silu

from imagic_cli import fusion
from imagic_cli.graph import Graphed
from imagic_cli.scale import Scale
from imagic_cli.updates import Updates

CPU = torch.device("cpu")
aten = torch.ops.aten
"""What a rewritten recording has left of these is what was not to be rewritten."""
FUSED = {aten.gelu_backward.default, aten.native_group_norm_backward.default, aten.silu_backward.default}


def like_kernels() -> ModuleType:
    """torch's own for each of the kernels, with results in their order of memory."""

    def last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    def normed(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, then: bool) -> Tensor:
        y = group_norm(x, groups, weight, bias, eps)
        return silu(y) if then else y

    def norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, then: bool) -> tuple[Tensor, ...]:
        # In place of moments what the gradient's stand-in needs besides.
        return last(normed(x, weight, bias, groups, eps, then)), bias, torch.tensor([groups, eps])

    def norm_gradient(
        outer: Tensor, x: Tensor, weight: Tensor, line: Tensor, moments: Tensor, then: bool
    ) -> tuple[Tensor, ...]:
        groups, eps = moments.tolist()
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_() for each in (x, weight, line)]
            y = normed(*leaves, int(groups), eps, then)
            inner, *others = torch.autograd.grad(y, leaves, outer)
        return last(inner), *others

    def gated(both: Tensor) -> Tensor:
        hidden, gate = both.chunk(2, -1)
        return hidden * gelu(gate)

    def gated_gradient(outer: Tensor, both: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = both.detach().requires_grad_()
            return torch.autograd.grad(gated(leaf), leaf, outer)[0]

    module = ModuleType("imagic_cli.kernels")
    module.MOST_IN_GROUP = 128
    module.group_norm, module.group_norm_gradient = norm, norm_gradient
    module.gated_gelu, module.gated_gelu_gradient = gated, gated_gradient
    module.column_sum = lambda x: x.sum([0, *range(2, x.dim())])
    return module


@pytest.fixture
def _stood_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagic_cli.kernels", like_kernels())
    # Which tells apart what is only rounded.
    monkeypatch.setattr(fusion, "_HALVES", {torch.float32})


@pytest.mark.usefixtures("_stood_in")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("what", ["A", "full", "lora", "kv"])
@pytest.mark.parametrize(("family", "name"), [*MODELS, ("sketchbook", "base")])
def test_a_fused_step_gives_the_same_numbers(models: Path, family: str, name: str, what: str, batch: int) -> None:
    case = Case(family if family == "sketchbook" else str(models / family), name, what)
    recording = case.recording(case.drawn(1, batch))
    fusion.fuse(recording)
    drawn = case.drawn(2, batch)
    loss, gradients = case.found(recording, drawn)
    case.check(drawn, loss, gradients)


def halved(module: ModuleType) -> None:
    """Kernels that are wrong."""
    norm = module.group_norm
    module.group_norm = lambda *given: (0.5 * norm(*given)[0], *norm(*given)[1:])


@pytest.mark.usefixtures("_stood_in")
@pytest.mark.parametrize("what", ["A", "full"])
def test_a_fused_step_is_taken_if_it_gives_what_torchs_kernels_do(
    models: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(fusion, "is_there", lambda: True)
    case = Case(str(models / "sd"), "base", what)
    scale = Scale(torch.float16, torch.device("cpu"))
    updates = Updates(case.leaves, partial(torch.optim.Adam, fused=True), scale, graphed=True)
    told: list[int] = []
    graphed = Graphed(case.loss, case.leaves, updates, lambda: told.append(1))
    graphed.drawn, other = case.drawn(1), case.drawn(2)
    step = graphed._fused()
    assert step is not None
    assert scale.factor == 65536
    assert all(leaf.grad is None for leaf in case.leaves)
    loss, gradients = case.wanted(other)
    assert torch.allclose(step(other), torch.stack([loss, torch.zeros(())]), rtol=1e-5)
    found = [leaf.grad / 65536 for leaf in case.leaves]
    assert fusion.is_close(found, gradients)
    assert not fusion.is_close(found, [1.2 * each for each in gradients])
    # One of many, which is no small part of them.
    one = max(range(len(found)), key=lambda place: found[place].norm())
    assert not fusion.is_close([2 * each if place == one else each for place, each in enumerate(found)], gradients)
    assert not fusion.is_close([*found[:-1], None], gradients)
    for bad in (float("nan"), float("inf")):
        assert not fusion.is_close(found, [each * bad for each in gradients])
    assert not told
    graphed._forget()
    halved(sys.modules["imagic_cli.kernels"])
    assert graphed._fused() is None
    assert told
    assert all(leaf.grad is None for leaf in case.leaves)


needs_kernels = pytest.mark.skipif(not fusion.is_there(), reason="needs a CUDA device and Triton")


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@needs_kernels
@pytest.mark.parametrize("then", [False, True])
@pytest.mark.parametrize(
    ("batch", "channels", "side"), [(1, 320, 64), (2, 640, 32), (3, 2560, 8), (1, 96, 17), (1, 64, 1)]
)
def test_the_norm_is_no_less_exact_than_torchs(batch: int, channels: int, side: int, then: bool) -> None:
    from imagic_cli import kernels

    torch.manual_seed(0)
    picture = (2 * torch.randn(batch, channels, side, side) + 1, 1 + 0.3 * torch.randn(channels), torch.randn(channels))
    x, weight, bias = (each.cuda().half().requires_grad_() for each in picture)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    outer = torch.randn_like(x)

    def plain(*leaves: Tensor) -> list[Tensor]:
        y = group_norm(leaves[0], 32, *leaves[1:], 1e-5)
        y = silu(y) if then else y
        return [y, *torch.autograd.grad(y, leaves, outer.to(y.dtype))]

    with torch.no_grad():
        y, line, moments = kernels.group_norm(x, weight, bias, 32, 1e-5, then)
        found = [y, *kernels.group_norm_gradient(outer, x, weight, line, moments, then)]
    wanted = plain(*(each.detach().double().requires_grad_() for each in (x, weight, bias)))
    for mine, theirs, exact in zip(found, plain(x, weight, bias), wanted, strict=True):
        assert error(mine, exact) <= 1.1 * error(theirs, exact) + 3e-4
        assert mine.is_contiguous(memory_format=torch.channels_last) or mine.dim() == 1


@needs_kernels
@pytest.mark.parametrize("inner", [40, 1280, 2000])
def test_the_gate_and_the_sums_are_as_exact_as_half_precision_is(inner: int) -> None:
    from imagic_cli import kernels

    both, outer = torch.randn(2, 7, 2 * inner).cuda().half(), torch.randn(2, 7, inner).cuda().half()
    leaf = both.double().requires_grad_()
    hidden, gate = leaf.chunk(2, -1)
    wanted = hidden * gelu(gate)
    (gradient,) = torch.autograd.grad(wanted, leaf, outer.double())
    assert error(kernels.gated_gelu(both), wanted) < 5e-4
    assert error(kernels.gated_gelu_gradient(outer, both), gradient) < 5e-4
    pictures = torch.randn(2, inner, 5, 9).cuda().half()
    assert error(kernels.column_sum(both[0]), both[0].double().sum(0)) < 5e-4
    assert error(kernels.column_sum(pictures), pictures.double().sum((0, 2, 3))) < 5e-4
