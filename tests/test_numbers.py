"""Samples of group 14; `make torture` runs them in full."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import reliability_numbers as numbers
import torch
from drive import done, imagic
from reliability import Routine

from imagic_cli.artifacts import Weights
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


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_change_that_half_precision_cannot_hold_is_not_stored(photo: Path, models: Path, method: str) -> None:
    done("optimize", photo, "a bird", "--model", models / "sd", "--run", "run", "--steps", 1)
    done("finetune", "--run", "run", "--steps", 1)
    weights, progress = Path("run/weights.safetensors"), Path("run/.progress/finetune.safetensors")
    before = weights.read_bytes()
    train = ["finetune", "--run", "run", "--steps", 1, "--lr", 1e5, "--method", method, "--force"]
    result = imagic(*train, "--checkpoint-every", 1)
    assert (result.code, "--delta-dtype fp32" in result.err) == (7, True), result.err
    assert weights.read_bytes() == before
    assert progress.exists()
    done(*train, "--delta-dtype", "fp32")
    assert not progress.exists()
    assert all(delta.isfinite().all() for delta in Weights.load(weights).content.deltas.values())


def test_a_refused_half_precision_update_can_be_tried_again() -> None:
    leaf = torch.zeros(3, requires_grad=True)
    updates = Updates([leaf], partial(torch.optim.Adam, lr=0.1), Scale(torch.float16, torch.device("cpu")))
    bad = [True]

    def nothing(_generator: torch.Generator) -> None:
        """What a step draws."""

    def objective(_drawn: None) -> torch.Tensor:
        # The root's value at zero is finite, its gradient is not.
        return leaf.abs().sqrt().sum() if bad else (leaf.sum() - 1) ** 2

    with pytest.raises(NumberError, match="step 17"):
        list(fit(updates, nothing, objective, 30, Stream(0, "train")))
    assert leaf.tolist() == [0, 0, 0]
    bad.clear()
    steps = fit(updates, nothing, objective, 20, Stream(0, "train"), 16)
    assert [step.index for step in steps] == [17, 18, 19, 20]
    assert leaf.isfinite().all()
    assert leaf.sum() > 0
