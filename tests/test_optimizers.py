"""The fused Adam that is called directly is torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from imagic_cli.config import FinetuneSettings
from imagic_cli.optimizers import Adam, optimizer

RATE = 1e-2
# At each step.
ALL = {0, 1, 2}
PRESENT = [{0, 2}, ALL, {0, 2}, {1, 2}, ALL, ALL, set(), ALL]


def leaves() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in (7, 4097, 1)]


def step(adam: Any, weights: list[Tensor], at: int) -> None:
    generator = torch.Generator().manual_seed(at)
    drawn = [torch.randn(weight.shape, generator=generator) for weight in weights]
    for place, weight in enumerate(weights):
        weight.grad = drawn[place] if place in PRESENT[at] else None
    adam.step()


@pytest.mark.parametrize("resumed", [None, 1, 3, 4])
def test_it_is_torchs_whatever_has_a_gradient_and_wherever_it_goes_on(resumed: int | None) -> None:
    mine, theirs = leaves(), leaves()
    adam: Any = Adam(mine, RATE)
    real = torch.optim.Adam(theirs, lr=RATE, fused=True)
    for at in range(len(PRESENT)):
        if at == resumed:
            # Both as a checkpoint brings them back, into another object or into what has made steps already.
            states = [copy.deepcopy(dict(real.state[weight])) for weight in theirs]
            adam = Adam(mine, RATE) if at < 4 else adam
            for weight, state in zip(mine, states, strict=True):
                adam.state[weight] = state
        step(adam, mine, at)
        step(real, theirs, at)
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one, other)
            assert adam.state[one].keys() == real.state[other].keys()
            assert all(torch.equal(adam.state[one][name], value) for name, value in real.state[other].items())


def test_a_processor_is_given_it() -> None:
    settings = FinetuneSettings()
    assert isinstance(optimizer(settings, leaves()), Adam)
    assert isinstance(optimizer(settings, [torch.empty(3, device="meta")]), torch.optim.Adam)
