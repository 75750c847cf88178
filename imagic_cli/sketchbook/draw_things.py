"""Things: the cake, and the tree and the house through the seasons."""

from __future__ import annotations

from random import Random

from imagic_cli.sketchbook.pen import INK, WHITE, Colour, Pen, shade

PLATE: Colour = (225, 230, 240)
TRUNK: Colour = (115, 78, 50)
SNOW: Colour = (245, 248, 255)
CROWNS: dict[str, Colour] = {"spring": (245, 165, 195), "summer": (60, 140, 60), "autumn": (225, 120, 35)}
# (icing, sponge, topping) for each flavour.
FLAVOURS: dict[str, tuple[Colour, Colour, Colour]] = {
    "chocolate": ((92, 52, 32), (140, 88, 55), (60, 32, 20)),
    "strawberry": ((245, 150, 175), (250, 215, 200), (215, 40, 55)),
    "pistachio": ((160, 200, 110), (215, 220, 150), (95, 140, 60)),
    "vanilla": ((252, 240, 205), (240, 215, 150), (255, 252, 240)),
}


def cake(pen: Pen, pose: str, flavour: str) -> None:
    """A cake on a stand: whole, with candles, one slice, or a tiered wedding cake. Raises KeyError for others."""
    pen.polygon([(-0.1, 0.16), (0.1, 0.16), (0.22, 0.0), (-0.22, 0.0)], shade(PLATE, 0.8))
    pen.oval((0, 0.18), (0.72, 0.1), shade(PLATE, 0.85))
    pen.oval((0, 0.21), (0.72, 0.1), PLATE)
    {"whole": _whole, "with candles": _candles, "slice": _slice, "wedding": _wedding}[pose](pen, *FLAVOURS[flavour])


def _tier(pen: Pen, y: float, radius: float, height: float, icing: Colour, sponge: Colour) -> None:
    flat = radius * 0.2
    pen.oval((0, y), (radius, flat), sponge)
    pen.polygon([(-radius, y), (radius, y), (radius, y + height), (-radius, y + height)], sponge)
    top = y + height
    pen.polygon([(-radius, top - height * 0.3), (radius, top - height * 0.3), (radius, top), (-radius, top)], icing)
    drips = 6
    for i in range(drips):
        x = -radius + (i + 0.5) * 2 * radius / drips
        pen.oval((x, top - height * 0.3), (radius / drips, height * (0.28 if i % 2 else 0.16)), icing)
    pen.oval((0, top), (radius, flat), shade(icing, 1.25))


def _whole(pen: Pen, icing: Colour, sponge: Colour, topping: Colour) -> None:
    _tier(pen, 0.28, 0.58, 0.44, icing, sponge)
    for x, y in ((-0.36, 0.73), (-0.12, 0.69), (0.14, 0.69), (0.37, 0.73)):
        pen.dot((x, y + 0.03), 0.075, topping)


def _candles(pen: Pen, icing: Colour, sponge: Colour, topping: Colour) -> None:
    _whole(pen, icing, sponge, topping)
    for x, tint in ((-0.25, (80, 140, 230)), (0.0, (240, 90, 140)), (0.25, (80, 140, 230))):
        pen.limb([(x, 0.76), (x, 1.04)], 0.06, tint)
        pen.oval((x, 1.16), (0.06, 0.11), (250, 150, 30))
        pen.oval((x, 1.13), (0.032, 0.06), (255, 235, 120))


def _slice(pen: Pen, icing: Colour, sponge: Colour, topping: Colour) -> None:
    pen.polygon([(-0.5, 0.24), (0.42, 0.2), (0.42, 0.68), (-0.5, 0.72)], sponge)
    pen.polygon([(-0.5, 0.44), (0.42, 0.4), (0.42, 0.5), (-0.5, 0.54)], icing)
    pen.polygon([(0.42, 0.2), (0.58, 0.3), (0.58, 0.76), (0.42, 0.68)], shade(icing, 0.85))
    pen.polygon([(-0.5, 0.72), (0.42, 0.68), (0.58, 0.78), (0.48, 0.84)], shade(icing, 1.15))
    pen.polygon([(-0.5, 0.72), (0.42, 0.68), (0.42, 0.61), (-0.5, 0.66)], icing)
    pen.dot((0.32, 0.84), 0.1, topping)


def _wedding(pen: Pen, icing: Colour, sponge: Colour, topping: Colour) -> None:
    for y, radius in ((0.26, 0.58), (0.58, 0.41), (0.88, 0.25)):
        _tier(pen, y, radius, 0.28, icing, shade(icing, 1.3) if sum(icing) < 500 else sponge)
    for x in (-0.45, 0.45):
        pen.dot((x, 0.58), 0.06, topping)
    # The couple on top is what tells it from a tall birthday cake.
    pen.polygon([(-0.14, 1.16), (-0.01, 1.16), (-0.07, 1.36)], WHITE)
    pen.dot((-0.07, 1.38), 0.05, (230, 180, 150))
    pen.polygon([(0.02, 1.16), (0.13, 1.16), (0.12, 1.34), (0.03, 1.34)], INK)
    pen.dot((0.075, 1.39), 0.05, (230, 180, 150))


def tree(pen: Pen, season: str, shape: str, rng: Random) -> None:
    """A tree with a round or a tall crown in one of four seasons."""
    tall = shape == "tall"
    _ground(pen, season, rng, 0.5)
    pen.polygon([(-0.1, 0), (0.1, 0), (0.055, 0.8), (-0.055, 0.8)], TRUNK)
    if season == "winter":
        _bare(pen, tall)
        return
    crown = CROWNS[season]
    if tall:
        pen.blob([(0, 0.34), (0.3, 0.6), (0.3, 1.0), (0, 1.66), (-0.3, 1.0), (-0.3, 0.6)], crown)
        pen.blob([(0.08, 0.6), (0.2, 0.8), (0.06, 1.3)], shade(crown, 1.2))
        return
    for x, y, r in ((-0.32, 0.82, 0.3), (0.32, 0.82, 0.3), (-0.2, 1.1, 0.32), (0.22, 1.1, 0.32), (0, 0.9, 0.36)):
        pen.dot((x, y), r, crown)
    for x, y, r in ((-0.2, 1.14, 0.15), (0.26, 0.94, 0.17)):
        pen.dot((x, y), r, shade(crown, 1.2))


def _bare(pen: Pen, tall: bool) -> None:
    spread, top = (0.2, 1.55) if tall else (0.52, 1.25)
    pen.limb([(0, 0.7), (0, top)], 0.07, TRUNK)
    for y, reach in ((0.62, 1.0), (0.82, 0.85), (1.02, 0.6)):
        rise = 0.42 if tall else 0.3
        for side in (-1, 1):
            tip = (side * spread * reach, y + rise)
            pen.limb([(0, y), tip], 0.055, TRUNK)
            pen.limb([(tip[0] * 0.6, y + rise * 0.62 + 0.05), (tip[0], tip[1] + 0.04)], 0.05, SNOW)


def house(pen: Pen, season: str, wall: Colour, rng: Random) -> None:
    """A small house with a garden in one of four seasons."""
    roof = SNOW if season == "winter" else (150, 75, 60)
    _ground(pen, season, rng, 0.85)
    pen.polygon([(0.26, 0.8), (0.42, 0.8), (0.42, 1.24), (0.26, 1.24)], (130, 90, 80))
    if season == "winter":
        pen.polygon([(0.23, 1.2), (0.45, 1.2), (0.45, 1.28), (0.23, 1.28)], SNOW)
    pen.polygon([(-0.56, 0), (0.56, 0), (0.56, 0.68), (-0.56, 0.68)], wall)
    pen.polygon([(-0.7, 0.66), (0.7, 0.66), (0.0, 1.24)], roof)
    pen.polygon([(-0.12, 0), (0.12, 0), (0.12, 0.42), (-0.12, 0.42)], (105, 65, 45))
    pen.dot((0.07, 0.2), 0.025, (240, 210, 110))
    for x in (-0.36, 0.36):
        pen.polygon([(x - 0.13, 0.28), (x + 0.13, 0.28), (x + 0.13, 0.54), (x - 0.13, 0.54)], WHITE)
        pen.polygon([(x - 0.1, 0.31), (x + 0.1, 0.31), (x + 0.1, 0.51), (x - 0.1, 0.51)], (150, 200, 235))
    if season == "winter":
        for i in range(8):
            x = -0.6 + i * 0.165
            pen.polygon([(x, 0.67), (x + 0.08, 0.67), (x + 0.04, 0.55)], SNOW)
    _garden(pen, season)


def _garden(pen: Pen, season: str) -> None:
    leaf = {**CROWNS, "spring": (110, 180, 80), "winter": SNOW}[season]
    for x in (-0.72, 0.72):
        for shift, r in ((-0.08, 0.15), (0.1, 0.14), (0.0, 0.19)):
            pen.dot((x + shift, 0.12), r, leaf)
        if season == "spring":
            for dx, dy in ((-0.1, 0.12), (0.02, 0.22), (0.12, 0.1), (0.0, 0.05)):
                pen.dot((x + dx, dy), 0.055, CROWNS["spring"])
        if season == "summer":
            pen.limb([(x, 0.1), (x, 0.5)], 0.035, (50, 110, 50))
            pen.dot((x, 0.55), 0.13, (250, 205, 40))
            pen.dot((x, 0.55), 0.06, (110, 70, 30))


def _ground(pen: Pen, season: str, rng: Random, reach: float) -> None:
    """What the season leaves around the foot: petals, nothing, leaves, or a bank of snow."""
    if season == "winter":
        pen.oval((0, 0.0), (reach * 1.25, 0.14), SNOW)
        return
    # Drawn for every season so that a change of season moves nothing else.
    spots = [(rng.uniform(-reach, reach), rng.uniform(-0.1, 0.06)) for _ in range(12)]
    if season != "summer":
        for x, y in spots:
            pen.oval((x, y), (0.055, 0.035), CROWNS[season])
