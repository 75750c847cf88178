"""Exact intervals against published values."""

from __future__ import annotations

import pytest

from imagic_cli.evaluation.intervals import exact


# Of 95 %: Clopper and Pearson's tables give them to three digits, R's binom.test to these.
@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.3084971),
        (10, 10, 0.6915029, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (1, 20, 0.00126509, 0.2487328),
        (682, 925, 0.7076683, 0.7654066),
        (6500, 9213, 0.6960992, 0.7148203),
    ],
)
def test_exact_intervals(successes: int, count: int, low: float, high: float) -> None:
    found = exact(successes, count)
    assert (found.mean, found.count) == (successes / count, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-7)


def test_no_share_no_interval() -> None:
    for successes, count in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="is no share"):
            exact(successes, count)
