"""Updates made within the backward pass are those of one Adam over everything."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from imagic_cli import updates as module
from imagic_cli.errors import NumberError
from imagic_cli.optimizers import Adam, Optimizer
from imagic_cli.scale import Scale
from imagic_cli.updates import Updates

Make = Callable[[list[Tensor]], Optimizer]
CPU = torch.device("cpu")
RATE = 1e-2
make = partial(Adam, learning_rate=RATE)
# What a GPU is given.
make_there = partial(torch.optim.Adam, lr=RATE, fused=True)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WITHIN_BYTES", 500)
    monkeypatch.setattr(module, "_AFTER_BYTES", 2000)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    middle = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.SiLU())]
    layers = [nn.Linear(2, 2), nn.Conv2d(3, 8, 3), *middle, nn.Conv2d(8, 2, 3)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def loss(net: nn.Sequential, step: int) -> Tensor:
    # The first layer has no part in it.
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(step))
    return net[1:](x).square().mean()


def trained(net: nn.Sequential, made: Updates, steps: range) -> list[Tensor]:
    for step in steps:
        made.make(loss(net, step))
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("join", [False, True])
def test_they_are_those_of_one_adam_bit_for_bit(monkeypatch: pytest.MonkeyPatch, join: bool) -> None:
    monkeypatch.setattr(module, "_SMALL", 10)
    net, plain = network(), network()
    made = Updates(list(net.parameters()), make, join=join)
    assert len(made.parts) > 2
    assert any(len(row.copies) > 1 for part in made.parts for row in part.rows) is join
    whole = make_there(plain.parameters())
    for step in range(5):
        whole.zero_grad()
        loss(plain, step).backward()
        whole.step()
    for mine, theirs in zip(trained(net, made, range(5)), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_no_gradient_outlives_its_update() -> None:
    net = network()
    made, most = Updates(list(net.parameters()), make), 0

    def held(_leaf: Tensor) -> None:
        nonlocal most
        # The parts hold the same memory, as rows.
        held = [each.grad for part in made.parts for each in part.copies + [row.numbers for row in part.rows]]
        most = max(most, sum({grad.data_ptr(): grad.nbytes for grad in held if grad is not None}.values()))

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(held)
    trained(net, made, range(2))
    assert all(each.grad is None for part in made.parts for each in part.copies + [row.numbers for row in part.rows])
    assert 0 < most < sum(p.nbytes for p in net.parameters()) / 2


def test_what_was_trained_can_be_forgotten() -> None:
    net = network()
    made = Updates(list(net.parameters()), make)
    trained(net, made, range(1))
    leaf, whole = weakref.ref(net[1].weight), weakref.ref(made)
    made.forget()
    del net, made
    gc.collect()
    assert leaf() is None
    assert whole() is None


def test_joined_leaves_come_to_the_same_numbers_and_so_do_their_copies() -> None:
    found = []
    for join in (False, True):
        net = network()
        masters = [p.detach() for p in net.parameters()]
        net.bfloat16()
        copies = list(net.parameters())
        made = Updates(masters, make, None, copies, join=join)
        for step in range(5):
            x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(step)).bfloat16()
            made.make(net[1:](x).float().square().mean())
        assert all(torch.equal(copy, master.bfloat16()) for copy, master in zip(copies, masters, strict=True))
        found.append(masters)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [make, make_there])
def test_a_leaf_without_a_dimension_is_restored_too(make: Make) -> None:
    weights = []
    for resumed in (False, True):
        leaves = [torch.tensor(2.0, requires_grad=True), torch.ones(3, requires_grad=True)]
        made = Updates(leaves, make, join=True)
        for step in range(4):
            if resumed and step == 2:
                states = [(leaf, *each) for leaf in leaves for each in made.state(leaf).items()]
                states = [(leaf, name, value.clone()) for leaf, name, value in states]
                made.forget()
                made = Updates(leaves, make, join=True)
                made.restore(states)
            made.make((leaves[0] * leaves[1]).square().sum() * (step + 1))
        weights.append([leaf.tolist() for leaf in leaves])
    assert weights[0] == weights[1]


def test_a_loss_that_nothing_differentiates_is_refused() -> None:
    with pytest.raises(AssertionError):
        Updates([torch.ones(3, requires_grad=True)], make).make(torch.tensor(1.0))


@pytest.mark.parametrize("make", [make, make_there])
@pytest.mark.parametrize("join", [False, True])
def test_what_was_restored_goes_on_bit_for_bit(make: Make, join: bool) -> None:
    undisturbed, first, second = network(), network(), network()
    wanted = trained(undisturbed, Updates(list(undisturbed.parameters()), make), range(6))
    before = Updates(list(first.parameters()), make, join=join)
    trained(first, before, range(3))
    after = Updates(list(second.parameters()), make, join=join)
    # As from a file: moments come back contiguous, whatever order their leaves lie in.
    states = [
        (new, name, value.contiguous())
        for old, new in zip(first.parameters(), second.parameters(), strict=True)
        for name, value in before.state(old).items()
    ]
    second.load_state_dict(first.state_dict())
    after.restore(states)
    assert all(map(torch.equal, trained(second, after, range(3, 6)), wanted))


@pytest.mark.parametrize(("layer", "torn"), [(-1, False), (1, True)])
def test_a_gradient_that_is_not_finite_is_refused(layer: int, torn: bool) -> None:
    net = network()
    made = Updates(list(net.parameters()), make)
    before = trained(net, made, range(2))
    net[layer].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NumberError, match="a gradient stopped being finite"):
        made.make(loss(net, 7))
    assert made.torn is torn
    assert all(p.isfinite().all() for p in net.parameters())
    assert all(map(torch.equal, before, net.parameters())) is not torn


def halves(net: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    """The network's weights in fp32, and the network's own in fp16."""
    masters = [p.detach() for p in net.parameters()]
    net.half()
    return masters, list(net.parameters())


def test_half_precision_copies_follow_masters_that_take_steps_too_small_for_them() -> None:
    net = network()
    masters, copies = halves(net)
    before = [master.clone() for master in masters]
    made = Updates(masters, partial(Adam, learning_rate=1e-6), Scale(torch.float16, CPU), copies)
    for _step in range(3):
        made.make(net[1:](torch.ones(2, 3, 12, 12, dtype=torch.float16)).float().square().mean())
    assert made.scale.state() == {"scale": 65536.0, "_growth_tracker": 3}
    for master, copy, old in list(zip(masters, copies, before, strict=True))[2:]:
        assert (master != old).float().mean() > 0.9
        assert (copy != old.half()).float().mean() < 0.5
        assert torch.equal(copy, master.half())
        assert copy.stride() == master.stride()


def test_the_scale_halves_until_no_gradient_overflows_and_doubles_after_many_updates() -> None:
    master = torch.ones(4)
    copy = master.half().requires_grad_()
    made = Updates([master], partial(Adam, learning_rate=1e-3), Scale(torch.float16, CPU), [copy])
    # The gradient of one number is as large as the scale.
    values = [made.make(copy.float().sum()) for step in range(3)]
    assert values[0] == values[1] == 4 > values[2]
    assert made.scale.state() == {"scale": 32768.0, "_growth_tracker": 2}
    for _step in range(3, 2001):
        made.make(copy.float().sum())
    assert made.scale.state() == {"scale": 65536.0, "_growth_tracker": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_at_any_scale_updates_nothing(dtype: torch.dtype, where: str) -> None:
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    made = Updates(list(net.parameters()), make, Scale(dtype, CPU))
    if where == "gradient":
        net[1].weight.register_hook(lambda gradient: gradient * float("inf"))
    # A gradient is refused once the scale has been halved down to 1.
    told, last = ("the loss became inf", 0) if where == "loss" else ("a gradient stopped being finite", 16)
    tried = []
    with pytest.raises(NumberError, match=told):
        for step in range(30):
            tried.append(step)
            made.make(loss(net, step) * (float("inf") if where == "loss" else 1))
    assert tried[-1] == (last if dtype == torch.float16 else 0)
    assert all(map(torch.equal, before, net.parameters()))
    assert not any(made.state(leaf) for leaf in net.parameters())
    assert not made.torn
    assert all(p.grad is None for p in net.parameters())


class Again:
    """What stands for a graph here: it runs what a graph would replay."""

    def __init__(self, work: Callable[[], None], _stream: object) -> None:
        self.replay = work


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_graphed_updates_are_those_of_the_ones_made_one_by_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "captured", Again)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: None)
    found = []
    for graphed in (False, True):
        net = network()
        masters = [p.detach() for p in net.parameters()]
        net.to(dtype)
        copies = list(net.parameters())
        made = Updates(masters, make_there, Scale(dtype, CPU), copies, graphed)
        for step in range(5):
            x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(step)).to(dtype)
            for copy in copies:
                # A replayed pass would write anew what lies there.
                copy.grad = None
            differentiated = made.differentiate(net[1:](x).float().square().mean())
            made.make(differentiated)
            for part in made.parts:
                # Which torch believes on CUDA alone.
                part.optimizer.param_groups[0]["capturable"] = False
        assert (made._graph is not None) == graphed
        found.append((masters, [copy.detach() for copy in copies]))
    for one, other in zip(*found, strict=True):
        assert all(map(torch.equal, one, other))


class AtOnce:
    """What stands for the kernel that makes all updates: Adam's own, where loss and gradients are finite."""

    def __init__(
        self, rows: list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]], group: dict[str, float], scale: Scale
    ) -> None:
        self.rows, self.scale = rows, scale
        self.step = next((state["step"] for *_, state in rows if state), torch.zeros(())).clone()
        for *_, leaf, state in rows:
            for name in ("exp_avg", "exp_avg_sq"):
                state.setdefault(name, torch.zeros_like(leaf))
            state["step"] = self.step
        self.adam = torch.optim.Adam([leaf for *_, leaf, _ in rows], lr=group["lr"], fused=True)
        self.adam.state = {leaf: state for *_, leaf, state in rows}

    def __call__(self, found: Tensor) -> Tensor:
        gradients = [gradient for gradient, *_ in self.rows]
        if not all(each.isfinite().all() for each in gradients):
            return torch.tensor([found[0], float("inf")])
        if found.isfinite().all():
            for gradient, _, leaf, state in self.rows:
                leaf.grad = gradient.float() * self.scale.inverse
                # torch counts for each leaf.
                state["step"] = self.step.clone()
            self.adam.step()
            self.step += 1
            for _, copy, leaf, state in self.rows:
                state["step"] = self.step
                copy.copy_(leaf)
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_updates_made_at_once_are_those_made_part_by_part_and_are_resumed(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    stand_in = ModuleType("imagic_cli.adam")
    stand_in.DirectUpdates = AtOnce
    monkeypatch.setitem(sys.modules, "imagic_cli.adam", stand_in)
    found = []
    for at_once in (False, True):
        monkeypatch.setattr(module.fusion, "is_there", lambda at_once=at_once: at_once)
        net = network()
        masters = [p.detach() for p in net.parameters()]
        net.to(dtype)
        copies, losses = list(net.parameters()), []

        def begun(masters: list[Tensor] = masters, copies: list[Tensor] = copies, at_once: bool = at_once) -> Updates:
            return Updates(masters, make_there, Scale(dtype, CPU), copies, graphed=at_once)

        made = begun()
        for step in range(6):
            if step == 3:
                states = [(leaf, *each) for leaf in masters for each in made.state(leaf).items()]
                states = [(leaf, name, value.clone()) for leaf, name, value in states]
                scaled = made.scale.state()
                made.forget()
                made = begun()
                made.restore(states)
                made.scale.restore(scaled)
            x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(step)).to(dtype)
            loss = net[1:](x).float().square().mean() * (400 if step == 1 and dtype == torch.float16 else 1)
            gradients = torch.autograd.grad(loss * made.scale.factor, copies, allow_unused=True)
            for copy, gradient in zip(copies, gradients, strict=True):
                # As of a graph they lie in one place.
                copy.grad = gradient if copy.grad is None or gradient is None else copy.grad.copy_(gradient)
            losses.append(made.make(made.found(loss.detach())))
        found.append((losses, masters, [copy.detach() for copy in copies], made.scale.state()))
    assert found[0][0] == found[1][0]
    assert found[0][3] == found[1][3]
    # The second step's gradients overflowed, and updated nothing.
    assert dtype == torch.float32 or found[1][3] == {"scale": 32768.0, "_growth_tracker": 4}
    for one, other in zip(found[0][1] + found[0][2], found[1][1] + found[1][2], strict=True):
        assert torch.equal(one, other)


def test_no_more_than_one_part_has_gradients_in_fp32_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    masters, copies = halves(net)
    made = Updates(masters, make, Scale(torch.float16, CPU), copies)
    held: list[weakref.ref[Tensor]] = []
    take, most = type(made.parts[0]).take_gradients, 0

    def watched(part: object) -> list[Tensor]:
        nonlocal most
        gradients = take(part)
        held.extend(map(weakref.ref, gradients))
        most = max(most, sum(each().nbytes for each in held if each() is not None))
        return gradients

    monkeypatch.setattr(type(made.parts[0]), "take_gradients", watched)
    made.make(net[1:](torch.ones(2, 3, 12, 12, dtype=torch.float16)).float().square().mean())
    assert most == max(sum(row.numbers.nbytes for row in part.rows) for part in made.parts)
