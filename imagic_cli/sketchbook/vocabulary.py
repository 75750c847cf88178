"""What a scene can be made of, and the words for it: the one table that drawing, captions and parsing agree on."""

from __future__ import annotations

from dataclasses import dataclass

OUTDOORS = ("grass", "sand", "snow", "night", "autumn", "waterfall")
EVERYWHERE = (*OUTDOORS[:4], "room", *OUTDOORS[4:])
# A tree or a house carries its own season, so settings that are a season, or indoors, are left out for them.
ANY_SEASON = ("grass", "sand", "night", "waterfall")

FUR = ("brown", "white", "black", "grey")
BRIGHT = ("red", "blue", "yellow", "green")


@dataclass(frozen=True)
class Kind:
    """One subject: its poses (or states) and colours (or flavours) as {name: ways to say it}, and where it lives.

    The first way to say it is the one edits use; the first pose is the one of a scene whose description names none.
    """

    nouns: tuple[str, ...]
    poses: dict[str, tuple[str, ...]]
    colours: tuple[str, ...]
    settings: tuple[str, ...]


_QUADRUPED = {
    "standing": ("standing",),
    "sitting": ("sitting", "sitting down"),
    "lying": ("lying down", "lying"),
    "jumping": ("jumping", "jumping up"),
}
_SEASONS: dict[str, tuple[str, ...]] = {
    season: (f"in {season}",) for season in ("summer", "spring", "autumn", "winter")
}

KINDS: dict[str, Kind] = {
    "bird": Kind(
        ("bird",),
        {
            "perched": ("perched", "sitting", "with folded wings"),
            "spreading wings": ("spreading wings", "spreading its wings", "with spread wings"),
            "flying": ("flying", "flying in the air"),
            "eating": ("eating", "eating seeds"),
        },
        BRIGHT,
        EVERYWHERE,
    ),
    "parrots": Kind(
        ("two parrots", "parrots"),
        {"apart": ("apart", "sitting apart"), "kissing": ("kissing", "kissing each other")},
        BRIGHT,
        EVERYWHERE,
    ),
    "dog": Kind(("dog",), _QUADRUPED, FUR, EVERYWHERE),
    "cat": Kind(("cat",), _QUADRUPED, ("orange", *FUR[1:]), EVERYWHERE),
    "goat": Kind(
        ("goat",),
        {
            "beside a cat": ("beside a cat", "standing beside a cat", "next to a cat"),
            "jumping over a cat": ("jumping over a cat", "leaping over a cat"),
        },
        FUR,
        EVERYWHERE,
    ),
    "horse": Kind(
        ("horse",),
        {
            "standing": ("standing",),
            "head down": ("with its head down", "with head down", "grazing"),
            "jumping": ("jumping", "leaping"),
            "with a saddle": ("with a saddle", "wearing a saddle"),
        },
        ("brown", "white", "black", "zebra"),
        OUTDOORS,
    ),
    "person": Kind(
        ("person",),
        {
            "arms down": ("with arms down", "standing"),
            "waving": ("waving", "waving a hand", "waving hello"),
            "thumbs up": ("giving a thumbs up", "showing a thumbs up", "with a thumbs up"),
            "arms crossed": ("with crossed arms", "with arms crossed", "crossing arms"),
        },
        BRIGHT,
        EVERYWHERE,
    ),
    "cake": Kind(
        ("cake",),
        {
            "whole": ("whole",),
            "with candles": ("with candles", "with birthday candles"),
            "slice": ("slice of",),
            "wedding": ("wedding",),
        },
        ("chocolate", "strawberry", "pistachio", "vanilla"),
        EVERYWHERE,
    ),
    "tree": Kind(("tree",), _SEASONS, ("round", "tall"), ANY_SEASON),
    "house": Kind(("house",), _SEASONS, ("red", "blue", "yellow", "white"), ANY_SEASON),
}

SETTINGS: dict[str, tuple[str, ...]] = {
    "grass": ("on grass", "on the grass", "in a meadow"),
    "sand": ("on sand", "on the beach", "on a beach"),
    "snow": ("in the snow", "on snow"),
    "night": ("at night", "in the night", "under the moon"),
    "room": ("in a room", "in the room", "indoors"),
    "autumn": ("in autumn", "in an autumn park"),
    "waterfall": ("by a waterfall", "near a waterfall", "in front of a waterfall"),
}

STYLES: dict[str, tuple[str, ...]] = {
    "plain": ("a picture of", "a drawing of"),
    "child": ("a children's drawing of", "a child's drawing of"),
    "pencil": ("a pencil sketch of", "a pencil drawing of"),
    "cartoon": ("a cartoon of", "a cartoon drawing of"),
}

OUTDOOR_PROPS = ("sun", "cloud", "trees", "hill", "flowers", "fence", "rock")
NIGHT_PROPS = ("cloud", "trees", "hill", "fence", "rock")
ROOM_PROPS = ("window", "picture", "lamp", "rug")


def props_of(setting: str) -> tuple[str, ...]:
    """The unnamed things that may stand in a setting."""
    return {"room": ROOM_PROPS, "night": NIGHT_PROPS}.get(setting, OUTDOOR_PROPS)
