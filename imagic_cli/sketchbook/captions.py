"""Plain English for a scene, and back: captions, the target texts of edits, and the parser of a described scene."""

from __future__ import annotations

import difflib
import re
from functools import cache
from random import Random
from typing import Protocol

from imagic_cli.sketchbook.vocabulary import KINDS, SETTINGS, STYLES, Kind

FILLERS = frozenset(
    ("a", "an", "the", "of", "its", "is", "are", "that", "with", "on", "in", "at", "and", "picture", "drawing", "shirt")
)


class Described(Protocol):
    """The fields of a scene that words can name."""

    @property
    def subject(self) -> str: ...
    @property
    def pose(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def setting(self) -> str: ...
    @property
    def style(self) -> str: ...


def _phrase(subject: str, pose: str = "", colour: str = "") -> str:
    """The subject with a pose and a colour in one of their wordings, either of them left out when empty."""
    kind = KINDS[subject]
    noun = "zebra" if colour == "zebra" else kind.nouns[0]
    if subject == "parrots":
        return " ".join(filter(None, ("two", colour, "parrots", pose)))
    if subject == "person":
        dressed = f"person in {_article(colour)} shirt" if colour else "person"
        return f"a {dressed} {pose}".strip()
    lead = "" if colour == "zebra" else colour
    if subject == "cake" and pose in ("slice of", "wedding", "whole"):
        words = {"slice of": f"slice of {lead} cake", "wedding": f"{lead} wedding cake", "whole": f"whole {lead} cake"}
        return _article(" ".join(words[pose].split()))
    return f"{_article(f'{lead} {noun}'.strip())} {pose}".strip()


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Described, variant: int | None = None) -> str:
    """Plain English for `scene`: None is the full plain sentence, a number one of many ways to say it.

    A variant may leave out the pose, the colour and the setting, each by itself: a text that is silent about one of
    them is no text about its commonest value, and an edit may be asked for in few words.
    """
    kind = KINDS[scene.subject]
    poses, places, styles = kind.poses[scene.pose], SETTINGS[scene.setting], STYLES[scene.style]
    if variant is None:
        core = f"{_phrase(scene.subject, poses[0], _sayable(scene))} {places[0]}"
        return core if scene.style == "plain" else f"{styles[0]} {core}"
    rng = Random(f"caption {variant}")
    pose = "" if rng.random() < 0.3 else rng.choice(poses)
    colour = "" if rng.random() < 0.3 else _sayable(scene)
    place = "" if rng.random() < 0.3 else rng.choice(places)
    core = _phrase(scene.subject, pose, colour)
    sentence = f"{place}, {core}" if place and rng.random() < 0.15 else f"{core} {place}".strip()
    said = rng.choice(styles)
    return sentence if scene.style == "plain" and rng.random() < 0.85 else f"{said} {sentence}"


def hides_colour(scene: Described) -> bool:
    """Whether the colour cannot be seen: in a pencil sketch only flavours, a tree's shape and stripes still show."""
    return scene.style == "pencil" and scene.subject not in ("cake", "tree") and scene.colour != "zebra"


def _sayable(scene: Described) -> str:
    """The colour, unless the drawing hides it."""
    return "" if hides_colour(scene) else scene.colour


def edit_text(scene: Described, field: str) -> str:
    """The target text of an edit that set `field` of `scene`, as the paper words them: "a bird spreading wings".

    Raises ValueError for a field that words cannot name.
    """
    noun = scene.colour if scene.colour == "zebra" else ""
    match field:
        case "pose":
            return _phrase(scene.subject, KINDS[scene.subject].poses[scene.pose][0], noun)
        case "colour":
            return _phrase(scene.subject, "", scene.colour)
        case "setting":
            return f"{_phrase(scene.subject, '', noun)} {SETTINGS[scene.setting][0]}"
        case "style":
            return f"{STYLES[scene.style][0]} {_phrase(scene.subject, '', noun)}"
    raise ValueError(f"no words for an edit of {field!r}: one of pose, colour, setting, style")


def words(text: str) -> list[str]:
    """Lower-case words of `text`, without punctuation; "child's" stays one word."""
    return re.findall(r"[a-z']+", text.lower())


@cache
def _grammar(subject: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """Every phrase that says something of `subject`, as {words: (field, value)}."""
    kind: Kind = KINDS[subject]
    phrases: dict[tuple[str, ...], tuple[str, str]] = {}
    for field, sayings in (("style", STYLES), ("setting", SETTINGS), ("pose", kind.poses)):
        # Later fields win, so "in autumn" is a season for a tree and a place for a bird.
        for value, ways in sayings.items():
            phrases |= {tuple(words(way)): (field, value) for way in ways}
    phrases |= {(colour,): ("colour", colour) for colour in kind.colours}
    phrases |= {tuple(words(noun)): ("subject", subject) for noun in kind.nouns}
    # A colour or a flavour may come between the words of these two.
    if subject == "cake":
        phrases[("slice",)] = ("pose", "slice")
    if subject == "parrots":
        phrases[("two",)] = ("subject", subject)
    return phrases


@cache
def known_words() -> tuple[str, ...]:
    """Every word of the grammar, sorted."""
    found = set(FILLERS)
    for subject in KINDS:
        found.update(word for phrase in _grammar(subject) for word in phrase)
    return tuple(sorted(found))


def parse(text: str) -> dict[str, str]:
    """The attributes that `text` names, as {"subject": "bird", "colour": "red", ...}; always a subject.

    Raises ValueError for unknown words (naming known ones), for no subject, and for contradictions.
    """
    said = words(text)
    unknown = [word for word in said if word not in known_words()]
    if unknown:
        raise ValueError("; ".join([*(_unknown(word) for word in unknown), _known(said)]))
    subject = _subject(said)
    grammar = _grammar(subject)
    longest = max(map(len, grammar))
    found: dict[str, str] = {"subject": subject}
    if "zebra" in said:
        found["colour"] = "zebra"
    at = 0
    while at < len(said):
        for length in range(min(longest, len(said) - at), 0, -1):
            match = grammar.get(tuple(said[at : at + length]))
            if match is not None:
                field, value = match
                if found.setdefault(field, value) != value:
                    raise ValueError(f"{text!r} names two of {field}: {found[field]} and {value}")
                at += length
                break
        else:
            if said[at] not in FILLERS:
                raise ValueError(f"{said[at]!r} says nothing of {_phrase(subject)}; it can be {_options(subject)}")
            at += 1
    return found


def _subject(said: list[str]) -> str:
    if "zebra" in said:
        return "horse"
    # A goat's cat is part of its pose.
    nouns = {words(noun)[-1]: subject for subject, kind in KINDS.items() for noun in kind.nouns}
    named = {nouns[word] for word in said if word in nouns}
    if "goat" in named:
        named.discard("cat")
    if len(named) != 1:
        raise ValueError(f"name one subject: {', '.join(KINDS)}")
    return named.pop()


def _options(subject: str) -> str:
    kind = KINDS[subject]
    return ", ".join((*(ways[0] for ways in kind.poses.values()), *kind.colours))


def _known(said: list[str]) -> str:
    try:
        subject = _subject(said)
    except ValueError as error:
        return str(error)
    places = (SETTINGS[setting][0] for setting in KINDS[subject].settings)
    return f"{_phrase(subject)} can be {', '.join((_options(subject), *places))}"


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word, known_words(), n=3, cutoff=0.6)
    return f"unknown word {word!r}" + (f" (nearest known: {', '.join(near)})" if near else "")
