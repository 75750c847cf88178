"""A small study to build: pictures of one colour, which tells the method."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from drive import done
from PIL import Image

SHADES = {"imagic": 200, "sdedit": 120, "ddib": 60}
TEXTS = ["a red bird <b>& more</b>", "a blue bird", "ein grüner Vogel"]


def picture(path: Path, *colour: int) -> None:
    """One colour, 40 x 30 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def make(folder: Path) -> Path:
    """Two photographs with three texts, and three methods' results, of which ddib lacks one."""
    picture(folder / "photos" / "bird.png", 10, 10, 10)
    picture(folder / "photos" / "other bird.jpeg", 30, 30, 30)
    with (folder / "pairs.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text"])
        writer.writerows([["photos/bird.png", TEXTS[0]], ["photos/bird.png", TEXTS[1]]])
        writer.writerow(["photos/other bird.jpeg", TEXTS[2]])
    for method, shade in SHADES.items():
        picture(folder / method / "bird.png-a_red_bird_b_more_b.png", shade, 1, 1)
        picture(folder / method / "bird-A blue bird..png", shade, 2, 2)
        if method != "ddib":
            picture(folder / method / "other bird.png", shade, 3, 3)
    return folder


def built(place: Path, out: Path, *flags: object, methods: tuple[str, ...] = ("imagic", "sdedit")) -> Path:
    """The page of a study of these methods."""
    named = [f"{method}={place / method}" for method in methods]
    (page,) = done("study", "build", *named, "--inputs", place / "pairs.csv", "--out", out, *flags).lines
    return Path(page)


def asked(page: Path) -> dict[str, Any]:
    """What the page's script works on."""
    (found,) = re.findall(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found)
