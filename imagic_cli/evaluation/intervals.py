"""How sure a mean over edits is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, over `count` values."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(values: Sequence[float]) -> Interval:
    """The percentile bootstrap of the mean, always with the same draws.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to average")
    numbers = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    means = numbers[rng.integers(len(numbers), size=(_DRAWS, len(numbers)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers))
