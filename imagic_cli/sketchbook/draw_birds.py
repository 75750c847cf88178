"""The bird and the two parrots."""

from __future__ import annotations

from imagic_cli.sketchbook.pen import INK, WHITE, Colour, Pen, shade

BEAK: Colour = (240, 150, 40)
LEG: Colour = (190, 120, 50)
WOOD: Colour = (125, 85, 55)


def bird(pen: Pen, pose: str, body: Colour) -> None:
    """A small round bird facing right. Raises KeyError for an unknown pose."""
    {"perched": _perched, "spreading wings": _spreading, "flying": _flying, "eating": _eating}[pose](pen, body)


def _legs(pen: Pen) -> None:
    for x in (-0.08, 0.08):
        pen.limb([(x, 0.3), (x, 0.03), (x + 0.09, 0.02)], 0.045, LEG)


def _torso(pen: Pen, body: Colour) -> None:
    pen.polygon([(-0.22, 0.5), (-0.68, 0.34), (-0.66, 0.2), (-0.2, 0.3)], shade(body, 0.7))
    pen.oval((0, 0.46), (0.36, 0.25), body, 22)
    pen.oval((0.1, 0.4), (0.22, 0.16), shade(body, 1.5), 25)


def _head(pen: Pen, body: Colour) -> None:
    pen.polygon([(0.12, 0.08), (0.34, 0.0), (0.12, -0.08)], BEAK)
    pen.dot((0, 0), 0.19, body)
    pen.eye((0.07, 0.05), 0.06)


def _perched(pen: Pen, body: Colour) -> None:
    _legs(pen)
    _torso(pen, body)
    pen.blob([(-0.4, 0.28), (-0.2, 0.58), (0.1, 0.58), (0.08, 0.36), (-0.15, 0.28)], shade(body, 0.7))
    _head(pen.moved((0.3, 0.76)), body)


def _wing(pen: Pen, colour: Colour) -> None:
    # Root at the origin, tip up and out; the three scallops read as feathers.
    pen.blob([(-0.06, 0), (0.12, 0.46), (0.5, 0.72), (0.78, 0.7), (0.72, 0.42), (0.4, 0.08), (0.12, -0.12)], colour)
    for tip in ((0.72, 0.5), (0.62, 0.3), (0.46, 0.14)):
        pen.limb([(0.12, 0.1), tip], 0.03, shade(colour, 0.75))


def _spreading(pen: Pen, body: Colour) -> None:
    wing = shade(body, 0.7)
    _legs(pen)
    _wing(pen.moved((0.12, 0.52)), wing)
    _wing(pen.moved((-0.12, 0.52), mirror=True), wing)
    _torso(pen, body)
    _head(pen.moved((0.16, 0.8)), body)


def _flying(pen: Pen, body: Colour) -> None:
    pen.oval((0, 0.02), (0.34, 0.05), (70, 80, 70))
    up = pen.moved((0, 0.5))
    wing = shade(body, 0.7)
    up.blob([(0.1, 0.55), (-0.05, 0.85), (-0.35, 1.0), (-0.38, 0.75), (-0.22, 0.5)], shade(body, 0.55))
    up.polygon([(-0.25, 0.48), (-0.75, 0.52), (-0.75, 0.34), (-0.25, 0.34)], wing)
    up.oval((0, 0.42), (0.38, 0.18), body, 4)
    up.oval((0.08, 0.36), (0.22, 0.1), shade(body, 1.5), 4)
    up.blob([(0.18, 0.45), (0.0, 0.82), (-0.3, 0.98), (-0.5, 0.95), (-0.38, 0.68), (-0.2, 0.42)], wing)
    _head(up.moved((0.4, 0.52)), body)


def _eating(pen: Pen, body: Colour) -> None:
    for x in (0.58, 0.68, 0.78, 0.5):
        pen.dot((x, 0.02), 0.035, (225, 190, 90))
    _legs(pen)
    low = pen.moved((0, 0.4), tilt=-38)
    low.polygon([(-0.22, 0.1), (-0.7, 0.14), (-0.7, 0.0), (-0.2, -0.08)], shade(body, 0.7))
    low.oval((0, 0), (0.38, 0.23), body)
    low.oval((0.1, -0.08), (0.22, 0.13), shade(body, 1.5))
    low.blob([(-0.4, -0.02), (-0.2, 0.18), (0.14, 0.14), (0.08, -0.06), (-0.15, -0.1)], shade(body, 0.7))
    _head(pen.moved((0.4, 0.27), tilt=-50), body)


def parrots(pen: Pen, pose: str, body: Colour) -> None:
    """Two parrots on one perch, apart or beak to beak."""
    for x in (-0.8, 0.8):
        pen.limb([(x, 0.0), (x, 0.38)], 0.07, shade(WOOD, 0.8))
    kissing = pose == "kissing"
    place, tilt = (0.4, -8.0) if kissing else (0.55, 8.0)
    for right in (False, True):
        x, lean = (place, -tilt) if right else (-place, tilt)
        # Apart they look away from each other, kissing they face each other.
        _parrot(pen.moved((x, 0.4), mirror=right == kissing, tilt=lean), body)
    pen.limb([(-0.9, 0.38), (0.9, 0.38)], 0.08, WOOD)
    for side in (-1, 1):
        for toe in (-0.05, 0.05):
            pen.oval((side * place + toe, 0.4), (0.035, 0.06), LEG)
    if kissing:
        _heart(pen.moved((0, 1.4)))


def _parrot(pen: Pen, body: Colour) -> None:
    wing = (60, 110, 210) if body[0] > body[2] else (235, 190, 60)
    pen.blob([(-0.1, 0.1), (-0.06, -0.32), (-0.16, -0.36), (-0.24, 0.05)], shade(body, 0.7))
    pen.oval((0, 0.3), (0.2, 0.34), body, -8)
    pen.blob([(-0.04, 0.5), (-0.22, 0.45), (-0.25, 0.1), (-0.17, -0.1), (-0.03, 0.2)], wing)
    pen.dot((0.06, 0.66), 0.2, body)
    pen.dot((0.12, 0.66), 0.1, WHITE)
    pen.dot((0.13, 0.68), 0.045, INK)
    pen.blob([(0.2, 0.76), (0.33, 0.7), (0.32, 0.54), (0.26, 0.5), (0.2, 0.58)], (70, 65, 70))


def _heart(pen: Pen) -> None:
    red = (225, 50, 80)
    pen.dot((-0.075, 0.05), 0.085, red)
    pen.dot((0.075, 0.05), 0.085, red)
    pen.polygon([(-0.155, 0.02), (0.155, 0.02), (0, -0.17)], red)
