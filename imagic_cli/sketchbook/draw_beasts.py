"""Animals on four legs: dog, cat, goat with its cat, horse and zebra."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from imagic_cli.sketchbook.pen import INK, WHITE, Colour, Pen, Point, shade

SHADOW: Colour = (70, 80, 70)
HORN: Colour = (200, 180, 140)


@dataclass(frozen=True)
class Stance:
    """Where the joints are, in units of the animal's height: near legs are drawn over the body, far legs under it."""

    hip: Point
    shoulder: Point
    head: Point
    near: tuple[tuple[Point, ...], ...]
    far: tuple[tuple[Point, ...], ...]
    tail: tuple[Point, ...]
    in_air: bool = False


_SMALL = {
    "standing": Stance(
        (-0.36, 0.52),
        (0.3, 0.54),
        (0.52, 0.86),
        (((-0.42, 0.5), (-0.46, 0.25), (-0.42, 0.04)), ((0.34, 0.5), (0.34, 0.04))),
        (((-0.26, 0.5), (-0.24, 0.04)), ((0.2, 0.5), (0.18, 0.04))),
        ((-0.5, 0.58), (-0.7, 0.74), (-0.72, 0.98)),
    ),
    "sitting": Stance(
        (-0.2, 0.26),
        (0.12, 0.6),
        (0.24, 0.98),
        (((-0.2, 0.2), (0.0, 0.06), (0.1, 0.05)), ((0.2, 0.5), (0.26, 0.04))),
        (((0.1, 0.5), (0.14, 0.04)),),
        ((-0.36, 0.14), (-0.62, 0.07), (-0.78, 0.2)),
    ),
    "lying": Stance(
        (-0.42, 0.22),
        (0.28, 0.24),
        (0.52, 0.5),
        (((-0.42, 0.12), (-0.12, 0.06)), ((0.3, 0.12), (0.72, 0.06))),
        (((0.3, 0.1), (0.6, 0.05)),),
        ((-0.58, 0.16), (-0.85, 0.07), (-1.0, 0.14)),
    ),
    "jumping": Stance(
        (-0.34, 0.66),
        (0.28, 0.9),
        (0.54, 1.2),
        (((-0.36, 0.62), (-0.62, 0.52), (-0.84, 0.34)), ((0.32, 0.84), (0.58, 0.78), (0.76, 0.92))),
        (((-0.3, 0.58), (-0.5, 0.42), (-0.7, 0.24)), ((0.26, 0.8), (0.52, 0.66), (0.74, 0.72))),
        ((-0.48, 0.74), (-0.74, 0.86), (-0.92, 0.78)),
        in_air=True,
    ),
}

_HORSE = {
    "standing": Stance(
        (-0.38, 0.68),
        (0.34, 0.68),
        (0.66, 1.12),
        (((-0.44, 0.62), (-0.5, 0.34), (-0.46, 0.03)), ((0.38, 0.62), (0.4, 0.03))),
        (((-0.3, 0.6), (-0.28, 0.03)), ((0.26, 0.6), (0.22, 0.03))),
        ((-0.54, 0.76), (-0.72, 0.6), (-0.72, 0.28)),
    ),
    "head down": Stance(
        (-0.38, 0.68),
        (0.34, 0.66),
        (0.72, 0.24),
        (((-0.44, 0.62), (-0.5, 0.34), (-0.46, 0.03)), ((0.38, 0.62), (0.4, 0.03))),
        (((-0.3, 0.6), (-0.28, 0.03)), ((0.26, 0.6), (0.22, 0.03))),
        ((-0.54, 0.76), (-0.72, 0.6), (-0.72, 0.28)),
    ),
    "jumping": Stance(
        (-0.36, 0.78),
        (0.3, 0.98),
        (0.66, 1.36),
        (((-0.42, 0.74), (-0.7, 0.62), (-0.86, 0.32)), ((0.36, 0.9), (0.68, 0.9), (0.72, 0.62))),
        (((-0.34, 0.7), (-0.58, 0.52), (-0.72, 0.24)), ((0.3, 0.88), (0.56, 0.78), (0.56, 0.5))),
        ((-0.52, 0.86), (-0.78, 0.94), (-1.0, 0.78)),
        in_air=True,
    ),
}


def _frame(pen: Pen, stance: Stance, coat: Colour, thick: float, leg: float) -> None:
    if stance.in_air:
        pen.oval((0, 0.02), (0.5, 0.05), SHADOW)
    for points in stance.far:
        pen.limb(points, leg, shade(coat, 0.72))
    pen.limb([stance.hip, stance.shoulder], thick, coat)
    for points in stance.near:
        pen.limb(points, leg * 1.05, shade(coat, 0.9))


def dog(pen: Pen, pose: str, coat: Colour, collar: Colour) -> None:
    """A dog facing right, floppy-eared, long-muzzled, with a collar. Raises KeyError for an unknown pose."""
    stance = _SMALL[pose]
    pen.limb(stance.tail, 0.1, shade(coat, 0.9))
    _frame(pen, stance, coat, 0.34, 0.13)
    x, y = stance.head
    pen.limb([stance.shoulder, (x - 0.06, y - 0.08)], 0.24, coat)
    pen.limb([(x - 0.17, y - 0.2), (x + 0.06, y - 0.24)], 0.07, collar)
    pen.oval((x, y), (0.2, 0.18), coat)
    pen.oval((x + 0.21, y - 0.06), (0.17, 0.1), shade(coat, 1.3))
    pen.dot((x + 0.36, y - 0.02), 0.055, INK)
    pen.eye((x + 0.08, y + 0.06), 0.05)
    pen.blob(
        [(x - 0.12, y + 0.14), (x - 0.22, y + 0.02), (x - 0.22, y - 0.18), (x - 0.1, y - 0.18), (x - 0.02, y + 0.1)],
        shade(coat, 0.6),
    )


def cat(pen: Pen, pose: str, coat: Colour) -> None:
    """A cat facing right with its face to us, prick-eared, thin-tailed. Raises KeyError for an unknown pose."""
    stance = _SMALL[pose]
    pen.limb(stance.tail, 0.085, shade(coat, 0.8))
    _frame(pen, stance, coat, 0.28, 0.1)
    # A cat's head sits lower and closer than a dog's.
    head = pen.moved((stance.head[0] - 0.08, stance.head[1] - 0.1))
    pen.limb([stance.shoulder, (stance.head[0] - 0.08, stance.head[1] - 0.1)], 0.2, coat)
    for side in (-1, 1):
        head.polygon([(side * 0.24, 0.36), (side * 0.23, 0.04), (side * 0.04, 0.18)], coat)
        head.polygon([(side * 0.2, 0.27), (side * 0.19, 0.12), (side * 0.1, 0.18)], (235, 150, 150))
    head.oval((0, 0), (0.25, 0.21), coat)
    head.oval((0, -0.09), (0.12, 0.08), shade(coat, 1.45))
    for x in (-0.1, 0.1):
        head.oval((x, 0.04), (0.055, 0.065), (190, 220, 90))
        head.oval((x, 0.04), (0.025, 0.055), INK)
    head.polygon([(-0.04, -0.04), (0.04, -0.04), (0, -0.09)], (225, 110, 120))


def goat(pen: Pen, pose: str, coat: Colour, friend: Colour) -> None:
    """A goat with horns and beard, beside a small sitting cat or leaping over it. Raises KeyError otherwise."""
    jump = {"beside a cat": False, "jumping over a cat": True}[pose]
    cat(pen.moved((0.56, 0), 0.52, mirror=True), "sitting", friend)
    body = pen.moved((0.28, 0.25) if jump else (-0.36, 0), 0.85, tilt=6 if jump else 0)
    stance = _SMALL["jumping" if jump else "standing"]
    hip = stance.hip
    _frame(body, dataclasses.replace(stance, in_air=False), coat, 0.36, 0.1)
    for points in (*stance.near, *stance.far):
        body.dot(points[-1], 0.06, INK)
    body.limb([(hip[0] - 0.12, hip[1] + 0.1), (hip[0] - 0.26, hip[1] + 0.24)], 0.09, shade(coat, 0.8))
    x, y = stance.head
    body.limb([stance.shoulder, (x - 0.04, y - 0.05)], 0.2, coat)
    for shift, tone in ((0.08, 0.75), (0.0, 1.0)):
        body.limb(
            [(x + shift, y + 0.1), (x - 0.08 + shift, y + 0.3), (x - 0.24 + shift, y + 0.36)], 0.06, shade(HORN, tone)
        )
    body.polygon([(x + 0.12, y - 0.12), (x + 0.26, y - 0.12), (x + 0.14, y - 0.36)], shade(coat, 0.75))
    body.oval((x + 0.1, y - 0.02), (0.24, 0.13), coat, -20)
    body.oval((x - 0.14, y + 0.02), (0.13, 0.05), shade(coat, 0.7), 20)
    body.eye((x + 0.06, y + 0.04), 0.045)
    body.dot((x + 0.29, y - 0.08), 0.03, INK)


def horse(pen: Pen, pose: str, coat: Colour, *, zebra: bool = False) -> None:
    """A horse, or a zebra, facing right. Raises KeyError for an unknown pose."""
    stance = _HORSE["standing" if pose == "with a saddle" else pose]
    mane = INK if zebra else shade(coat, 0.45) if sum(coat) < 600 else (200, 190, 170)
    pen.limb(stance.tail, 0.11, mane)
    _frame(pen, stance, coat, 0.36, 0.115)
    for points in (*stance.near, *stance.far):
        pen.dot(points[-1], 0.065, shade(mane, 0.8))
    (sx, sy), (x, y) = stance.shoulder, stance.head
    pen.limb([(sx - 0.1, sy + 0.12), (x - 0.12, y + 0.06)], 0.1, mane)
    pen.limb([(sx, sy), (x - 0.02, y)], 0.22, coat)
    angle = -75 if y < 0.5 else -40
    head = pen.moved((x, y), tilt=angle)
    head.polygon([(-0.15, 0.08), (-0.16, 0.22), (-0.03, 0.12)], shade(coat, 0.85))
    head.oval((0.1, 0), (0.26, 0.13), coat)
    head.oval((0.28, -0.01), (0.1, 0.1), (110, 105, 110) if zebra else shade(coat, 0.7))
    head.eye((0.02, 0.05), 0.045)
    if zebra:
        _stripes(pen, stance)
    if pose == "with a saddle":
        _saddle(pen)


def _stripes(pen: Pen, stance: Stance) -> None:
    (hx, hy), (sx, sy), (x, y) = stance.hip, stance.shoulder, stance.head
    for i in range(7):
        t = i / 6
        mx, my = hx + (sx - hx) * t, hy + (sy - hy) * t
        pen.limb([(mx - 0.02, my + 0.14), (mx + 0.02, my - 0.12)], 0.05, INK)
    for t in (0.45, 0.7):
        mx, my = sx + (x - sx) * t, sy + (y - sy) * t
        along = (x - sx, y - sy)
        pen.limb(
            [(mx - along[1] * 0.16, my + along[0] * 0.16), (mx + along[1] * 0.16, my - along[0] * 0.16)], 0.05, INK
        )
    for points in stance.near:
        (ax, ay), (bx, by) = points[-2], points[-1]
        for t in (0.3, 0.6):
            mx, my = ax + (bx - ax) * t, ay + (by - ay) * t
            pen.limb([(mx - 0.045, my), (mx + 0.045, my)], 0.04, INK)


def _saddle(pen: Pen) -> None:
    red, leather = (190, 40, 50), (95, 55, 30)
    pen.blob([(-0.2, 0.88), (0.2, 0.88), (0.2, 0.62), (-0.2, 0.62)], red)
    pen.limb([(0.0, 0.7), (0.0, 0.46)], 0.05, leather)
    pen.blob([(-0.24, 1.0), (-0.1, 0.92), (0.08, 0.92), (0.2, 1.0), (0.16, 0.82), (-0.16, 0.82)], leather)
    pen.limb([(0.0, 0.46), (-0.04, 0.4), (0.04, 0.4), (0.0, 0.46)], 0.025, WHITE)
