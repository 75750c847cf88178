"""Edits whose right answer is known: a scene, one thing to change, and the scene with that changed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from imagic_cli.sketchbook.captions import hides_colour
from imagic_cli.sketchbook.scenes import Scene, sample
from imagic_cli.sketchbook.vocabulary import KINDS

FIELDS = ("pose", "colour", "setting")


@dataclass(frozen=True)
class Pair:
    """One edit: `field` of `before` is changed, and `after` is the true answer.

    Its texts name the subject and that field, as the paper words them, or, if they are `full`, all that has to stay.
    """

    number: int
    before: Scene
    after: Scene
    field: str
    full: bool

    @property
    def source(self) -> str:
        """What the target text would be of the input."""
        return self._said(self.before)

    @property
    def text(self) -> str:
        """The target text."""
        return self._said(self.after)

    def _said(self, scene: Scene) -> str:
        return scene.caption() if self.full else scene.edit_text(self.field)


def pair(number: int, full: bool = False) -> Pair:
    """Edit number `number` of the test split, whose scenes and combinations no training has seen together."""
    before = sample(number, "test")
    rng = Random(f"sketchbook pair {number}")
    # What a pencil sketch hides cannot be edited.
    fields = [field for field in FIELDS if field != "colour" or not hides_colour(before)]
    field = rng.choice(fields)
    kind = KINDS[before.subject]
    values = {"pose": tuple(kind.poses), "colour": kind.colours, "setting": kind.settings}[field]
    value = rng.choice([each for each in values if each != getattr(before, field)])
    return Pair(number, before, before.edit(**{field: value}), field, full)
