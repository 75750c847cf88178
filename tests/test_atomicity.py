"""Samples of groups 5 and 6; `make torture` runs them in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import reliability_atomicity as atomicity
import reliability_disk as disk
from reliability import Routine

SAMPLES = [
    (atomicity.every_operation, 20),
    (disk.polled, 60),
    (disk.full_disks, 7),
    (disk.preflights, 5),
]


@pytest.mark.parametrize(("routine", "count"), SAMPLES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_reader_sees_the_old_artifact_or_the_new_one(disturbed: Path, routine: Routine, count: int) -> None:
    outcome = routine(count, disturbed, lambda done: None)
    assert outcome.passed, outcome
