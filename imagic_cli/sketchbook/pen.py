"""A pen that draws flat shapes in a subject's own coordinates: x to the right, y up, the ground at y = 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

INK: Colour = (35, 30, 40)
WHITE: Colour = (250, 250, 248)


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` darkened (factor < 1) or lightened towards white (factor > 1, 2 is white)."""
    if factor <= 1:
        red, green, blue = (round(c * factor) for c in colour)
    else:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


class Pen:
    """Draws on `image` (RGB or RGBA) with the local origin at `origin` pixels and one local unit `scale` pixels long.

    `tilt` turns the subject about its origin, in degrees anticlockwise; `mirror` swaps left and right.
    """

    def __init__(
        self, image: Image.Image, origin: Point, scale: float, *, mirror: bool = False, tilt: float = 0.0
    ) -> None:
        self.image = image
        self.origin = origin
        self.scale = scale
        self.mirror = mirror
        self.tilt = tilt
        self._draw = ImageDraw.Draw(image)

    def moved(self, by: Point, scale: float = 1.0, *, mirror: bool = False, tilt: float = 0.0) -> Pen:
        """The same pen with its origin at the local point `by`: for a second animal, or a part with its own turn."""
        turned = -tilt if self.mirror else tilt
        return Pen(self.image, self._at(by), self.scale * scale, mirror=self.mirror != mirror, tilt=self.tilt + turned)

    def _at(self, point: Point) -> Point:
        x, y = (-point[0] if self.mirror else point[0]) * self.scale, point[1] * self.scale
        turn = math.radians(self.tilt)
        return (
            self.origin[0] + x * math.cos(turn) - y * math.sin(turn),
            self.origin[1] - x * math.sin(turn) - y * math.cos(turn),
        )

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon with sharp corners."""
        self._draw.polygon([self._at(p) for p in points], fill=fill)

    def blob(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled closed curve (Catmull-Rom) through `points`."""
        self._draw.polygon([self._at(p) for p in _closed_curve(points)], fill=fill)

    def oval(self, centre: Point, radii: Point, fill: Colour, angle: float = 0.0) -> None:
        """A filled ellipse, turned by `angle` degrees anticlockwise."""
        turn = math.radians(angle)
        points = []
        for step in range(28):
            a = 2 * math.pi * step / 28
            x, y = radii[0] * math.cos(a), radii[1] * math.sin(a)
            points.append(
                (
                    centre[0] + x * math.cos(turn) - y * math.sin(turn),
                    centre[1] + x * math.sin(turn) + y * math.cos(turn),
                )
            )
        self.polygon(points, fill)

    def dot(self, centre: Point, radius: float, fill: Colour) -> None:
        """A filled circle."""
        x, y = self._at(centre)
        r = radius * self.scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def limb(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A line of constant width with round joints and ends: a leg, an arm, a tail, a stem."""
        pixels = [self._at(p) for p in points]
        thick = max(1, round(width * self.scale))
        self._draw.line(pixels, fill=fill, width=thick, joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            r = thick / 2 - 0.5
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def eye(self, centre: Point, radius: float) -> None:
        """A white eye with a dark pupil."""
        self.dot(centre, radius, WHITE)
        self.dot((centre[0] + radius * 0.2, centre[1]), radius * 0.62, INK)


def _closed_curve(points: Sequence[Point], fineness: int = 6) -> list[Point]:
    count = len(points)
    curve: list[Point] = []
    for i in range(count):
        before, start, end, after = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        for step in range(fineness):
            t = step / fineness
            x, y = (
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
                for a, b, c, d in zip(before, start, end, after, strict=True)
            )
            curve.append((x, y))
    return curve
