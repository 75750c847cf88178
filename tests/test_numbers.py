"""Samples of group 14; `make torture` runs them in full."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import reliability_numbers as numbers
import torch
from reliability import Routine

from imagic_cli.errors import NumberError
from imagic_cli.fit import fit
from imagic_cli.noise import Stream
from imagic_cli.scale import Scale
from imagic_cli.updates import Updates

SAMPLES = [
    (numbers.not_finite, 4),
    (numbers.out_of_memory, 4),
]


@pytest.mark.parametrize(("routine", "count"), SAMPLES, ids=lambda each: getattr(each, "__name__", ""))
def test_the_last_good_state_is_kept(disturbed: Path, routine: Routine, count: int) -> None:
    outcome = routine(count, disturbed, lambda done: None)
    assert outcome.passed, outcome


def test_a_refused_half_precision_update_can_be_tried_again() -> None:
    leaf = torch.zeros(3, requires_grad=True)
    updates = Updates([leaf], partial(torch.optim.Adam, lr=0.1), Scale(torch.float16, torch.device("cpu")))
    bad = [True]

    def objective(_generator: torch.Generator) -> torch.Tensor:
        # The root's value at zero is finite, its gradient is not.
        return leaf.abs().sqrt().sum() if bad else (leaf.sum() - 1) ** 2

    with pytest.raises(NumberError, match="step 17"):
        list(fit(updates, objective, 30, Stream(0, "train")))
    assert leaf.tolist() == [0, 0, 0]
    bad.clear()
    assert [step.index for step in fit(updates, objective, 20, Stream(0, "train"), 16)] == [17, 18, 19, 20]
    assert leaf.isfinite().all()
    assert leaf.sum() > 0
