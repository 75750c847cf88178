"""How sure a mean over edits, or a share of answers, is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    def told(self, form: str, scale: float = 1.0) -> str:
        """The mean and its ends in the format `form`, times `scale`; one value alone has no interval."""
        mean, low, high = (format(scale * each, form) for each in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if self.count > 1 else mean


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


def exact(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """A share with its exact (Clopper and Pearson, 1934) confidence interval.

    Its ends are the shares under which so many successes or more, and so many or fewer, have half of what confidence
    leaves open as their probability. It is never too narrow, whatever the share and the count.

    Raises:
        ValueError: there is no trial, or there are not from 0 to `count` successes.
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} of {count} is no share")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _root(_at_least(successes, count), tail)
    high = 1.0 if successes == count else 1 - _root(_at_least(count - successes, count), tail)
    return Interval(successes / count, low, high, count)


def _at_least(successes: int, count: int) -> Callable[[float], float]:
    # How probable so many successes are, by the share. In logarithms: ten thousand answers' coefficients fit no float.
    factorials = np.array([math.lgamma(number + 1) for number in range(count + 1)])
    hits = np.arange(successes, count + 1)
    coefficients = factorials[count] - factorials[hits] - factorials[count - hits]

    def probability(share: float) -> float:
        return float(np.exp(coefficients + hits * math.log(share) + (count - hits) * math.log1p(-share)).sum())

    return probability


def _root(rising: Callable[[float], float], wanted: float) -> float:
    low, high = 0.0, 1.0
    # Until no float lies between.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return middle
