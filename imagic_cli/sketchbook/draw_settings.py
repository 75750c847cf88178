"""Where a scene takes place, in picture coordinates: x and y (up) from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from imagic_cli.sketchbook.pen import Colour, Pen, shade

# (sky, ground, foliage) outdoors.
PALETTES: dict[str, tuple[Colour, Colour, Colour]] = {
    "grass": ((165, 212, 245), (122, 190, 88), (70, 140, 75)),
    "sand": ((150, 215, 240), (240, 215, 150), (80, 150, 90)),
    "snow": ((190, 205, 225), (238, 243, 250), (90, 130, 125)),
    "night": ((28, 34, 80), (44, 78, 70), (24, 52, 56)),
    "autumn": ((245, 225, 180), (196, 130, 62), (215, 95, 35)),
    "waterfall": ((175, 215, 235), (110, 170, 95), (60, 125, 80)),
}


@dataclass(frozen=True)
class Place:
    """What the nuisance seed decides about a setting, drawn all at once so that no choice depends on another."""

    horizon: float
    sky: float
    ground: float
    light_x: float
    trees: tuple[tuple[float, float], ...]
    hill_x: float
    cloud_x: float
    flowers: tuple[tuple[float, float], ...]
    rock_x: float
    window_x: float
    tilt: float
    wall: int
    stars: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, rng: Random) -> Place:
        return cls(
            horizon=rng.uniform(0.38, 0.52),
            sky=rng.uniform(0.94, 1.08),
            ground=rng.uniform(0.92, 1.08),
            light_x=rng.choice((0.12, 0.88)) + rng.uniform(-0.03, 0.03),
            trees=tuple((rng.uniform(0.04, 0.96), rng.uniform(0.16, 0.26)) for _ in range(3)),
            hill_x=rng.uniform(0.1, 0.9),
            cloud_x=rng.uniform(0.2, 0.8),
            flowers=tuple((rng.uniform(0.03, 0.97), rng.uniform(0.03, 0.3)) for _ in range(6)),
            rock_x=rng.choice((0.1, 0.9)) + rng.uniform(-0.05, 0.05),
            window_x=rng.choice((0.2, 0.8)) + rng.uniform(-0.05, 0.05),
            tilt=rng.uniform(-3, 3),
            wall=rng.randrange(4),
            stars=tuple((rng.uniform(0.02, 0.98), rng.uniform(0.55, 0.97)) for _ in range(9)),
        )


def background(pen: Pen, setting: str, props: Collection[str], place: Place) -> None:
    """Fills the picture under `pen` (origin at the lower left corner, one unit is the picture's width)."""
    if setting == "room":
        _room(pen, props, place)
    else:
        _outdoors(pen, setting, props, place)


def _band(pen: Pen, low: float, high: float, fill: Colour) -> None:
    pen.polygon([(0, low), (1, low), (1, high), (0, high)], fill)


def _outdoors(pen: Pen, setting: str, props: Collection[str], place: Place) -> None:
    sky, ground, foliage = PALETTES[setting]
    sky, ground, h = shade(sky, min(place.sky, 1.3)), shade(ground, place.ground), place.horizon
    _band(pen, 0, 1, sky)
    if setting == "night":
        _night_sky(pen, place)
    if "sun" in props:
        pen.dot((place.light_x, 0.87), 0.085, (255, 214, 70))
    if "cloud" in props:
        _cloud(pen, place.cloud_x, (70, 76, 120) if setting == "night" else (250, 250, 252))
    if "hill" in props:
        pen.oval((place.hill_x, h - 0.04), (0.36, 0.2), shade(foliage, 1.25))
    if setting == "waterfall":
        _waterfall(pen, place)
    if setting == "sand":
        _band(pen, h, h + 0.1, (70, 150, 205))
    if setting == "autumn" or "trees" in props:
        for x, height in place.trees:
            _far_tree(pen, (x, h - 0.02), height, setting, foliage)
    _band(pen, 0, h, ground)
    pen.oval((0.5, h), (0.75, 0.025), ground)
    if "fence" in props:
        _fence(pen, h)
    if "rock" in props:
        pen.blob(
            [(place.rock_x - 0.1, h - 0.06), (place.rock_x - 0.05, h + 0.03), (place.rock_x + 0.1, h - 0.05)],
            (135, 135, 140),
        )
    if setting == "autumn":
        for x, y in place.flowers:
            pen.oval((x, y), (0.028, 0.016), (232, 92, 30), 30)
    elif "flowers" in props:
        for i, (x, y) in enumerate(place.flowers):
            pen.dot((x, y), 0.02, ((250, 240, 120), (245, 150, 190), (250, 250, 250))[i % 3])
    if setting == "snow":
        for x, y in place.stars:
            pen.dot((x, y), 0.013, (252, 253, 255))


def _night_sky(pen: Pen, place: Place) -> None:
    for x, y in place.stars:
        pen.dot((x, y), 0.011, (250, 240, 190))
    pen.dot((place.light_x, 0.85), 0.09, (250, 240, 200))
    pen.dot((place.light_x + 0.04, 0.87), 0.075, shade(PALETTES["night"][0], min(place.sky, 1.3)))


def _cloud(pen: Pen, x: float, fill: Colour) -> None:
    for dx, dy, r in ((-0.09, 0, 0.05), (0, 0.02, 0.07), (0.09, 0, 0.05)):
        pen.dot((x + dx, 0.86 + dy), r, fill)


def _far_tree(pen: Pen, foot: tuple[float, float], height: float, setting: str, foliage: Colour) -> None:
    x, y = foot
    if setting == "snow":
        for low, width in ((0.2, 0.5), (0.45, 0.4), (0.7, 0.28)):
            pen.polygon(
                [
                    (x - width * height, y + low * height),
                    (x + width * height, y + low * height),
                    (x, y + (low + 0.5) * height),
                ],
                foliage,
            )
        return
    pen.limb([(x, y), (x, y + height * 0.6)], height * 0.14, (110, 80, 60))
    pen.oval((x, y + height * 0.75), (height * 0.36, height * 0.42), foliage)


def _waterfall(pen: Pen, place: Place) -> None:
    h, left = place.horizon, place.light_x < 0.5
    x = 0.24 if left else 0.76
    pen.polygon([(x - 0.3, h - 0.02), (x - 0.24, 0.93), (x + 0.24, 0.93), (x + 0.3, h - 0.02)], (125, 120, 125))
    pen.polygon([(x - 0.12, h - 0.02), (x - 0.1, 0.95), (x + 0.1, 0.95), (x + 0.12, h - 0.02)], (95, 175, 230))
    for dx in (-0.06, 0.01, 0.07):
        pen.limb([(x + dx, 0.92), (x + dx * 1.1, h)], 0.018, (225, 242, 252))
    for i in range(6):
        pen.dot((x - 0.15 + i * 0.06, h + 0.015), 0.04, (240, 248, 252))


def _fence(pen: Pen, h: float) -> None:
    wood = (170, 130, 95)
    for y in (h + 0.01, h + 0.06):
        pen.limb([(0, y), (1, y)], 0.018, wood)
    for i in range(7):
        pen.limb([(0.05 + i * 0.15, h - 0.04), (0.05 + i * 0.15, h + 0.1)], 0.026, wood)


def _room(pen: Pen, props: Collection[str], place: Place) -> None:
    wall = ((236, 214, 190), (214, 224, 214), (226, 210, 226), (240, 228, 186))[place.wall]
    floor = shade((176, 124, 84), place.ground)
    h = place.horizon - 0.06
    _band(pen, 0, 1, wall)
    _band(pen, 0, h, floor)
    _band(pen, h - 0.005, h + 0.03, (250, 246, 240))
    window, other = (place.window_x, 1 - place.window_x)
    if "window" in props:
        _framed(pen, window, 0.72, 0.13, 0.16, (170, 215, 245), 0.0)
        pen.limb([(window, 0.56), (window, 0.88)], 0.014, (250, 246, 240))
        pen.limb([(window - 0.13, 0.72), (window + 0.13, 0.72)], 0.014, (250, 246, 240))
    if "picture" in props:
        _framed(pen, other, 0.76, 0.1, 0.08, (120, 165, 140), place.tilt * 2)
    if "rug" in props:
        pen.oval((0.5, h * 0.45), (0.42, 0.12), shade((180, 80, 90), place.ground))
    if "lamp" in props:
        x = 0.07 if window > 0.5 else 0.93
        pen.limb([(x, h - 0.04), (x, 0.62)], 0.016, (90, 80, 75))
        pen.polygon([(x - 0.09, 0.6), (x + 0.09, 0.6), (x + 0.05, 0.74), (x - 0.05, 0.74)], (250, 220, 130))


def _framed(pen: Pen, x: float, y: float, half_width: float, half_height: float, fill: Colour, tilt: float) -> None:
    turn = math.radians(tilt)
    for grow, colour in ((0.016, (250, 246, 240)), (0.0, fill)):
        corners = []
        for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            dx, dy = sx * (half_width + grow), sy * (half_height + grow)
            corners.append(
                (x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn))
            )
        pen.polygon(corners, colour)
