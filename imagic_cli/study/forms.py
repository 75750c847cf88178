"""What a study's page asks, and what comes back from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imagic_cli.errors import InputError
from imagic_cli.photo import quoted
from imagic_cli.stamps import canonical

Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shown(_Form):
    """One method's picture: the method, and the file beside the page, whose name does not tell it."""

    method: Name
    picture: str


class Trial(_Form):
    """One question: the input, the target text, and two edits, in no order yet: each rater's page draws the sides."""

    trial: int
    text: str
    input: str
    edits: tuple[Shown, Shown]


class Study(_Form):
    """All that can be asked.

    Attributes:
        seed: of orders and sides; each rater's also depend on the rater's name.
        methods: in the order that they were named.
        questions: how many of the trials one rater is asked.
        trials: all of them.
    """

    version: Literal[1] = 1
    seed: int
    methods: tuple[Name, ...]
    questions: int
    trials: tuple[Trial, ...]

    @property
    def identity(self) -> str:
        """Equal studies, pictures included (their files are called after their pixels), have equal ones."""
        return hashlib.sha256(canonical(self.model_dump(mode="json")).encode()).hexdigest()[:16]


class Answer(_Form):
    """One choice, with what stood on which side."""

    trial: int
    left: Name
    right: Name
    chosen: Literal["left", "right"]
    seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _two_methods(self) -> Answer:
        if self.left == self.right:
            raise ValueError("a method stood against itself")
        return self


class Answers(_Form):
    """One rater's answers, as the page lets them be downloaded."""

    version: Literal[1]
    kind: Literal["imagic study answers"]
    study: Name
    seed: int
    methods: tuple[Name, ...]
    trials: Annotated[int, Field(ge=1)]
    questions: Annotated[int, Field(ge=1)]
    rater: Name
    saved: str
    answers: tuple[Answer, ...]

    @model_validator(mode="after")
    def _of_this_study(self) -> Answers:
        numbers = [answer.trial for answer in self.answers]
        if len(set(numbers)) < len(numbers):
            raise ValueError("a question is answered twice")
        if not all(0 <= number < self.trials for number in numbers):
            raise ValueError("an answer is to no question of the study")
        if not {name for answer in self.answers for name in (answer.left, answer.right)} <= set(self.methods):
            raise ValueError("an answer names a method that is not in the study")
        return self


def read_answers(path: Path) -> Answers:
    """The answers in a file that the page made.

    Raises:
        InputError: there is no such file, or it is not as the page writes it.
    """
    try:
        return Answers.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{quoted(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = json.dumps(where)[1:-1] + ": " if where else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{quoted(path)} holds no answers of a study ({told}{message})") from error
