"""The person, seen from the front."""

from __future__ import annotations

from imagic_cli.sketchbook.pen import INK, Colour, Pen, shade


def person(pen: Pen, pose: str, shirt: Colour, skin: Colour, hair: Colour, trousers: Colour) -> None:
    """A person facing us. Raises KeyError for an unknown pose."""
    arms = {"arms down": _down, "waving": _waving, "thumbs up": _thumbs_up, "arms crossed": _crossed}[pose]
    for side in (-1, 1):
        pen.limb([(side * 0.1, 0.5), (side * 0.12, 0.08)], 0.16, trousers)
        pen.oval((side * 0.15, 0.04), (0.12, 0.05), INK)
    pen.limb([(0, 1.0), (0, 0.92)], 0.13, skin)
    pen.blob([(-0.24, 0.92), (0.24, 0.92), (0.22, 0.5), (0.2, 0.46), (-0.2, 0.46), (-0.22, 0.5)], shirt)
    pen.dot((0, 1.2), 0.225, hair)
    pen.oval((0, 1.15), (0.18, 0.2), skin)
    pen.blob([(-0.2, 1.2), (-0.12, 1.36), (0.12, 1.38), (0.2, 1.2), (0.06, 1.28)], hair)
    for x in (-0.075, 0.075):
        pen.dot((x, 1.16), 0.03, INK)
    pen.limb([(-0.06, 1.05), (0.0, 1.03), (0.06, 1.05)], 0.03, (170, 60, 60))
    arms(pen, shade(shirt, 0.72), skin)


def _hanging(pen: Pen, side: int, sleeve: Colour, skin: Colour) -> None:
    pen.limb([(side * 0.27, 0.88), (side * 0.34, 0.66), (side * 0.35, 0.54)], 0.13, sleeve)
    pen.dot((side * 0.355, 0.46), 0.075, skin)


def _down(pen: Pen, sleeve: Colour, skin: Colour) -> None:
    for side in (-1, 1):
        _hanging(pen, side, sleeve, skin)


def _waving(pen: Pen, sleeve: Colour, skin: Colour) -> None:
    _hanging(pen, -1, sleeve, skin)
    pen.limb([(0.27, 0.87), (0.5, 0.92), (0.54, 1.16)], 0.13, sleeve)
    hand = pen.moved((0.56, 1.28), tilt=-8)
    hand.dot((0, 0), 0.1, skin)
    for x, y in ((-0.13, 0.1), (-0.05, 0.2), (0.04, 0.2), (0.12, 0.14)):
        hand.limb([(0, 0), (x, y)], 0.055, skin)


def _thumbs_up(pen: Pen, sleeve: Colour, skin: Colour) -> None:
    _hanging(pen, -1, sleeve, skin)
    pen.limb([(0.27, 0.86), (0.36, 0.62), (0.5, 0.68)], 0.13, sleeve)
    fist = pen.moved((0.62, 0.75))
    fist.limb([(-0.04, 0.0), (-0.05, 0.25)], 0.085, skin)
    fist.blob([(-0.13, 0.1), (0.12, 0.12), (0.14, -0.12), (-0.12, -0.14)], skin)
    for y in (0.04, -0.04):
        fist.limb([(0.02, y), (0.12, y)], 0.02, shade(skin, 0.7))


def _crossed(pen: Pen, sleeve: Colour, skin: Colour) -> None:
    for side, low in ((1, 0.64), (-1, 0.74)):
        pen.limb([(side * 0.27, 0.87), (side * 0.36, 0.64), (-side * 0.16, low)], 0.13, sleeve)
        pen.dot((-side * 0.21, low + 0.01), 0.075, skin)
