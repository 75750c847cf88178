"""`imagic study score`: how often each method was preferred to each other one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagic_cli.errors import InputError
from imagic_cli.evaluation.intervals import Interval, exact
from imagic_cli.photo import quoted
from imagic_cli.study.forms import Answers, read_answers

HEAD = ("method", "against", "answers", "preferred", "rate", "95 % from", "to")


@dataclass(frozen=True)
class Preference:
    """How often `method` was preferred to `against`.

    Attributes:
        method: the one.
        against: the other.
        preferred: how often the one was chosen.
        rate: as a share of `rate.count` answers, with its exact interval.
    """

    method: str
    against: str
    preferred: int
    rate: Interval

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row under `HEAD`."""
        numbers = (self.rate.mean, self.rate.low, self.rate.high)
        counts = (str(self.rate.count), str(self.preferred))
        return self.method, self.against, *counts, *(f"{100 * number:.1f} %" for number in numbers)


@dataclass(frozen=True)
class Score:
    """What the answers say.

    Attributes:
        preferences: of each two methods that were compared, in the study's order.
        left: how often the left picture was chosen: about half, if raters looked.
        raters: how many answered anything.
    """

    preferences: Sequence[Preference]
    left: Interval
    raters: int


def score(paths: Sequence[Path]) -> Score:
    """What the answers in all these files say together, each answer counted alike.

    Raises:
        InputError: a file is no answers file, the files are of different studies, one rater's answers come twice, or
            there is no answer at all.
    """
    sheets = {path: read_answers(path) for path in paths}
    _check_together(sheets)
    answers = [answer for sheet in sheets.values() for answer in sheet.answers]
    if not answers:
        raise InputError("there is no answer in these files")
    methods = next(iter(sheets.values())).methods
    wins = Counter(
        (answer.left, answer.right) if answer.chosen == "left" else (answer.right, answer.left) for answer in answers
    )
    left = sum(answer.chosen == "left" for answer in answers)
    raters = len({sheet.rater for sheet in sheets.values() if sheet.answers})
    return Score(list(_preferences(methods, wins)), exact(left, len(answers)), raters)


def _preferences(methods: Sequence[str], wins: Mapping[tuple[str, str], int]) -> Iterator[Preference]:
    for one, other in itertools.combinations(methods, 2):
        preferred, against = wins.get((one, other), 0), wins.get((other, one), 0)
        if preferred + against:
            yield Preference(one, other, preferred, exact(preferred, preferred + against))


def _check_together(sheets: Mapping[Path, Answers]) -> None:
    first = next(iter(sheets))
    compared: dict[int, set[str]] = {}
    raters: dict[str, Path] = {}
    for path, sheet in sheets.items():
        for name in ("study", "methods", "trials", "seed"):
            if getattr(sheet, name) != getattr(sheets[first], name):
                raise InputError(f"{quoted(first)} and {quoted(path)} are of different studies", "score each by itself")
        if sheet.rater in raters:
            both = f"{quoted(raters[sheet.rater])} and {quoted(path)}"
            raise InputError(f"{both} are both of rater {sheet.rater!r}", "leave the older one out")
        raters[sheet.rater] = path
        for answer in sheet.answers:
            two = {answer.left, answer.right}
            if compared.setdefault(answer.trial, two) != two:
                raise InputError(f"{quoted(path)} shows other methods in question {answer.trial} than the files before")
