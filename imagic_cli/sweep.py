"""Which etas and seeds a call of stage C makes, exactly as they were typed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from imagic_cli.errors import UsageError

Item = tuple[str, int]
"""Eta, as it is written, and seed: one image."""
_MOST = 10_000
_MOST_ITEMS = 100_000
# Seeds have no more digits, and Python refuses to read a number of thousands.
_DIGITS = r"\d{1,19}"


def parse_etas(text: str, flag: str = "--eta") -> list[str]:
    """Etas from '0.7', '0.5,0.7' or 'start:end:step' (the end included), in exact decimals.

    Args:
        text: what was typed.
        flag: after what; strengths and guidances are typed in the same way.

    Returns:
        Each with at least three decimals: '0.700'. Values outside [0, 1] are legal.

    Raises:
        UsageError: it is none of these.
    """
    etas: list[str] = []
    for part in text.split(","):
        numbers = [_number(each, text, flag) for each in part.split(":")]
        if len(numbers) == 1:
            etas.append(_plain(numbers[0]))
        elif len(numbers) == 3:
            etas += _range(numbers[0], numbers[1], numbers[2], text, flag)
        else:
            raise _wrong(text, flag)
        if len(etas) > _MOST:
            raise UsageError(f"{flag} {text} is more than {_MOST} values")
    return list(dict.fromkeys(etas))


def parse_seeds(first: int, count: int) -> list[int]:
    """`count` seeds from `first` on.

    Raises:
        UsageError: there are none, or too many.
    """
    if not 1 <= count <= _MOST:
        raise UsageError(f"--seeds {count} is not a count from 1 to {_MOST}")
    if not 0 <= first < 2**63:
        raise UsageError(f"--seed {first} is not from 0 to 2^63 - 1")
    if first + count > 2**63:
        raise UsageError(f"the last of {count} seeds from {first} on is above 2^63 - 1", "begin with a smaller one")
    return list(range(first, first + count))


def parse_seed_range(text: str) -> list[int]:
    """Seeds from '3' or 'first:end', the end excluded: '0:8' is eight seeds.

    Raises:
        UsageError: it is neither.
    """
    if not re.fullmatch(f"{_DIGITS}(:{_DIGITS})?", text):
        raise UsageError(f"--seed {text[:40]!r} is no seed or range of seeds", "such as 3, or 0:8 for eight seeds")
    first, colon, end = text.partition(":")
    count = int(end) - int(first) if colon else 1
    if not 1 <= count <= _MOST:
        raise UsageError(f"--seed {text} is not 1 to {_MOST} seeds", "such as 0:8 for eight")
    return parse_seeds(int(first), count)


def crossed(etas: Sequence[str], seeds: Sequence[int]) -> list[Item]:
    """Each eta (or strength) with each seed.

    Raises:
        UsageError: these are too many.
    """
    count = len(etas) * len(seeds)
    if count > _MOST_ITEMS:
        told = f"{len(etas)} values by {len(seeds)} seeds are {count} images"
        raise UsageError(f"{told}, more than {_MOST_ITEMS}", "ask for fewer at once")
    return [(each, seed) for each in etas for seed in seeds]


def check_strengths(strengths: Sequence[float], steps: int) -> None:
    """Refuse a strength of SDEdit's that leaves none of the sampler's steps to take.

    Raises:
        UsageError: there is one.
    """
    least = min(strengths)
    # As diffusers' pipelines round.
    if int(steps * least) < 1:
        enough = f"--steps {math.ceil(1 / least)}, or a strength of {math.ceil(1000 / steps) / 1000:g}"
        raise UsageError(f"SDEdit at strength {least:g} takes none of {steps} steps", f"the least is {enough}")


def _range(start: Decimal, end: Decimal, step: Decimal, text: str, flag: str) -> list[str]:
    if step <= 0 or end < start:
        raise UsageError(f"{flag} {text}: the step must be above 0 and the end not before the start")
    if (end - start) / step >= _MOST:
        raise UsageError(f"{flag} {text} is more than {_MOST} values")
    return [_plain(start + index * step) for index in range(int((end - start) / step) + 1)]


def _number(text: str, whole: str, flag: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise _wrong(whole, flag) from None
    if not number.is_finite() or abs(number) > 1000 or -int(number.as_tuple().exponent) > 12:
        raise _wrong(whole, flag)
    return number


def _plain(number: Decimal) -> str:
    # -0 and 0 are one eta; 0.70 and 0.700 too.
    number = number.normalize() + 0
    decimals = max(3, -int(number.as_tuple().exponent))
    return f"{number:.{decimals}f}"


def _wrong(text: str, flag: str) -> UsageError:
    return UsageError(f"{flag} {text!r} is no number, list or range", "such as 0.7, or 0.5,0.7, or 0.6:0.8:0.05")
