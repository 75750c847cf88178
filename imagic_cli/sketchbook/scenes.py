"""Scenes whose right answer is known: an edit of a scene is the same scene with one thing changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from imagic_cli.sketchbook import captions
from imagic_cli.sketchbook.draw_beasts import cat, dog, goat, horse
from imagic_cli.sketchbook.draw_birds import bird, parrots
from imagic_cli.sketchbook.draw_person import person
from imagic_cli.sketchbook.draw_settings import Place, background
from imagic_cli.sketchbook.draw_things import cake, house, tree
from imagic_cli.sketchbook.pen import INK, Colour, Pen, shade
from imagic_cli.sketchbook.styles import restyle
from imagic_cli.sketchbook.vocabulary import KINDS, OUTDOOR_PROPS, ROOM_PROPS, STYLES, props_of

SIZE = 128
SUPERSAMPLING = 3

Split = Literal["train", "heldout", "test", "judge"]
SPLITS: tuple[Split, ...] = get_args(Split)

PAINT: dict[str, Colour] = {
    "red": (214, 50, 48),
    "blue": (52, 98, 205),
    "yellow": (244, 202, 50),
    "green": (52, 160, 82),
    "brown": (140, 88, 52),
    "white": (244, 242, 236),
    "black": (52, 48, 54),
    "grey": (140, 143, 150),
    "orange": (232, 140, 56),
    "zebra": (244, 242, 238),
}
SKINS: tuple[Colour, ...] = ((245, 205, 170), (222, 172, 130), (160, 110, 78), (105, 70, 50))
HAIRS: tuple[Colour, ...] = ((50, 36, 30), (120, 72, 40), (222, 178, 90), (150, 60, 35))
TROUSERS: tuple[Colour, ...] = ((62, 74, 120), (92, 86, 82), (60, 60, 66), (128, 100, 76))

# Height of one local unit as a share of the picture, so that every pose stays inside it.
_UNIT = {
    "bird": 0.48,
    "parrots": 0.45,
    "dog": 0.46,
    "cat": 0.46,
    "goat": 0.46,
    "horse": 0.44,
    "person": 0.5,
    "cake": 0.5,
    "tree": 0.46,
    "house": 0.46,
}


@dataclass(frozen=True)
class Scene:
    """One picture: everything in it follows from these fields.

    `x` is where the subject stands across the picture (0 to 1), `y` how high its feet are (0 to 1, up), `size` its
    scale (1 is normal). `seed` decides what no caption names: exact shades, the light, trees, the window, the tilt.

    Raises ValueError for a pose, colour, setting or style that its subject does not have, and for an unknown prop.
    """

    subject: str
    pose: str
    colour: str
    setting: str
    props: tuple[str, ...] = ()
    style: str = "plain"
    x: float = 0.5
    y: float = 0.16
    size: float = 1.0
    mirror: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.subject not in KINDS:
            raise ValueError(f"unknown subject {self.subject!r}: one of {', '.join(KINDS)}")
        kind = KINDS[self.subject]
        for field, allowed in (
            ("pose", tuple(kind.poses)),
            ("colour", kind.colours),
            ("setting", kind.settings),
            ("style", tuple(STYLES)),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"a scene of {self.subject} has no {field} {value!r}: one of {', '.join(allowed)}")
        # A prop that its setting does not show is kept, so that an edit of the setting can be undone.
        if strange := set(self.props) - {*OUTDOOR_PROPS, *ROOM_PROPS}:
            raise ValueError(
                f"unknown props {', '.join(sorted(strange))}: some of {', '.join(OUTDOOR_PROPS + ROOM_PROPS)}"
            )

    def edit(self, **change: Any) -> Scene:
        """The true answer to an edit: this scene with the named fields changed and all else kept."""
        return dataclasses.replace(self, **change)

    def caption(self, variant: int | None = None) -> str:
        """Plain English for the scene: None is the full plain sentence, a number one of many ways to say it."""
        return captions.caption(self, variant)

    def edit_text(self, field: str) -> str:
        """The target text of an edit that set `field`, as the paper words them: "a bird spreading wings"."""
        return captions.edit_text(self, field)

    @classmethod
    def from_text(cls, text: str, seed: int) -> Scene:
        """The scene that plain words such as "a red bird on grass" describe; `seed` decides what they leave out.

        Raises ValueError naming unknown words and the nearest known ones, or a combination that cannot be drawn.
        """
        said = captions.parse(text)
        rng = Random(f"sketchbook text {seed}")
        kind = KINDS[said["subject"]]
        chosen: dict[str, Any] = {
            "pose": next(iter(kind.poses)),
            "colour": rng.choice(kind.colours),
            "setting": rng.choice(kind.settings),
            "style": "plain",
        } | said
        return cls(**chosen, **_arrangement(rng, chosen["setting"]), seed=seed)

    def draw(self, size: int = SIZE) -> Image.Image:
        """The picture: RGB, `size` x `size` pixels."""
        big = size * SUPERSAMPLING
        picture = Image.new("RGB", (big, big))
        place = Place.of(Random(f"place {self.seed}"))
        background(Pen(picture, (0, big), big), self.setting, self.props, place)
        layer = self.subject_layer(size)
        alpha = layer.getchannel("A")
        # A dark rim tells a white goat from the snow and a black cat from the night.
        rim = alpha
        for dx, dy in ((-2, 0), (2, 0), (0, -2), (0, 2)):
            rim = ImageChops.lighter(rim, ImageChops.offset(alpha, dx, dy))
        picture.paste((95, 98, 128) if self.setting == "night" else INK, mask=rim)
        picture.paste(layer, mask=alpha)
        styled = restyle(picture, self.style, SUPERSAMPLING, Random(f"style {self.seed}"))
        return styled.reduce(SUPERSAMPLING)

    def subject_layer(self, size: int = SIZE) -> Image.Image:
        """The subject alone, supersampled: RGBA, transparent where the setting shows."""
        big = size * SUPERSAMPLING
        layer = Image.new("RGBA", (big, big), (0, 0, 0, 0))
        rng = Random(f"subject {self.seed}")
        tilt = rng.uniform(-2, 2)
        pen = Pen(
            layer,
            (self.x * big, (1 - self.y) * big),
            _UNIT[self.subject] * self.size * big,
            mirror=self.mirror,
            tilt=tilt,
        )
        self._draw_subject(pen, rng)
        return layer

    def _draw_subject(self, pen: Pen, rng: Random) -> None:
        tone, pick = rng.uniform(0.9, 1.1), rng.randrange(4)
        paint = shade(PAINT[self.colour], tone) if self.colour in PAINT else INK
        match self.subject:
            case "bird":
                bird(pen, self.pose, paint)
            case "parrots":
                parrots(pen, self.pose, paint)
            case "dog":
                dog(pen, self.pose, paint, PAINT[("red", "blue", "green", "yellow")[pick]])
            case "cat":
                cat(pen, self.pose, paint)
            case "goat":
                goat(pen, self.pose, paint, PAINT[("orange", "grey", "black", "white")[pick]])
            case "horse":
                horse(pen, self.pose, paint, zebra=self.colour == "zebra")
            case "person":
                person(pen, self.pose, paint, SKINS[pick], HAIRS[rng.randrange(4)], TROUSERS[rng.randrange(4)])
            case "cake":
                cake(pen, self.pose, self.colour)
            case "tree":
                tree(pen, self.pose, self.colour, rng)
            case _:
                house(pen, self.pose, paint, rng)


def _arrangement(rng: Random, setting: str) -> dict[str, Any]:
    """What no caption names but an edit must keep: the props and where the subject stands."""
    known = props_of(setting)
    wanted = rng.sample(known, k=rng.choice((0, 1, 1, 2, 2, 3)))
    return {
        "props": tuple(prop for prop in known if prop in wanted),
        "x": round(rng.uniform(0.44, 0.56), 3),
        "y": round(rng.uniform(0.12, 0.22), 3),
        "size": round(rng.uniform(0.88, 1.08), 3),
        "mirror": rng.random() < 0.5,
    }


def held_out(scene: Scene) -> bool:
    """Whether the scene combines attributes in a way that the training split never does.

    Each subject keeps back one pose with one colour and one colour with one setting; every attribute is still seen.
    """
    kind = KINDS[scene.subject]
    turn = tuple(KINDS).index(scene.subject)
    poses, colours, settings = tuple(kind.poses), kind.colours, kind.settings
    pose_colour = (poses[(turn + 1) % len(poses)], colours[turn % len(colours)])
    colour_setting = (colours[(turn + 1) % len(colours)], settings[turn % len(settings)])
    return (scene.pose, scene.colour) == pose_colour or (scene.colour, scene.setting) == colour_setting


def sample(index: int, split: Split) -> Scene:
    """Scene number `index` of a split: "train" has no held-out combination, "heldout" nothing else, the others all.

    No two splits share a nuisance seed.
    """
    rng = Random(f"sketchbook {split} {index}")
    while True:
        subject = rng.choice(tuple(KINDS))
        kind = KINDS[subject]
        setting = rng.choice(kind.settings)
        scene = Scene(
            subject=subject,
            pose=rng.choice(tuple(kind.poses)),
            colour=rng.choice(kind.colours),
            setting=setting,
            style=rng.choices(tuple(STYLES), (7, 1, 1, 1))[0],
            **_arrangement(rng, setting),
            seed=index * len(SPLITS) + SPLITS.index(split),
        )
        if split in ("test", "judge") or held_out(scene) == (split == "heldout"):
            return scene


def drawn(split: Split, index: int) -> NDArray[np.uint8]:
    """The pixels of scene number `index` of a split: uint8 (128, 128, 3)."""
    return np.asarray(sample(index, split).draw(), dtype=np.uint8)
