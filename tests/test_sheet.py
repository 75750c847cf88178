"""A contact sheet shows every picture unchanged in its place, with readable labels on white."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imagic_cli.sheet import contact_sheet

RED, GREEN, BLUE, LIME = (Image.new("RGB", (96, 72), colour) for colour in ("red", "#008000", "blue", "lime"))
ETAS = ["eta 0.600", "eta 0.700"]
SEEDS = ["seed 0", "seed 12"]


def where(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
    """Left, top, right, bottom of what has the colour, and how many pixels have it."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1, len(rows)


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
    """How many dark pixels a part of the sheet has."""
    return int((np.asarray(sheet.crop(box)).max(axis=-1) < 128).sum())


def test_every_picture_stands_whole_in_its_place() -> None:
    sheet = contact_sheet([[RED, GREEN], [BLUE, LIME]], ETAS, SEEDS, "a bird")
    boxes = [where(sheet, colour) for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 255, 0))]
    for left, top, right, bottom, count in boxes:
        assert (right - left, bottom - top, count) == (96, 72, 96 * 72)
    red, green, blue, lime = boxes
    assert red[:2] == (blue[0], green[1])
    assert lime[:2] == (green[0], blue[1])
    assert red[2] < green[0]
    assert red[3] < blue[1]


def test_labels_stand_beside_their_pictures() -> None:
    sheet = contact_sheet([[RED, GREEN], [BLUE, LIME]], ETAS, SEEDS)
    red, lime = where(sheet, (255, 0, 0)), where(sheet, (0, 255, 0))
    assert ink(sheet, (red[0], 0, red[2], red[1])) > 20
    assert ink(sheet, (lime[0], 0, lime[2], red[1])) > 20
    assert ink(sheet, (0, red[1], red[0], red[3])) > 20
    assert ink(sheet, (0, lime[1], red[0], lime[3])) > 20
    assert ink(sheet, (0, 0, red[0], red[1])) == 0


def test_labels_grow_with_the_cells() -> None:
    heights = []
    for side in (128, 512):
        sheet = contact_sheet([[Image.new("RGB", (side, side), "red")]], ["eta 1"], ["seed 1"])
        left, top, right, _, _ = where(sheet, (255, 0, 0))
        heights.append(ink(sheet, (left, 0, right, top)))
    assert heights[1] > 4 * heights[0] > 0


def test_an_empty_cell_is_white() -> None:
    sheet = contact_sheet([[RED, None]], ETAS, ["seed 0"])
    left, top, right, bottom, _ = where(sheet, (255, 0, 0))
    assert sheet.crop((right, top, sheet.width, bottom)).getextrema() == ((255, 255),) * 3


def test_large_cells_are_reduced_to_512() -> None:
    sheet = contact_sheet([[Image.new("RGB", (1024, 768), "red"), RED]], ETAS, ["seed 0"])
    left, _, right, _, count = where(sheet, (255, 0, 0))
    assert count == 512 * 384 + 96 * 72


def test_very_many_cells_are_reduced_further() -> None:
    cell = Image.new("RGB", (512, 512), "red")
    sheet = contact_sheet([[cell] * 100], [f"eta {number}" for number in range(100)], ["seed 0"])
    assert sheet.width < 11_000
    assert where(sheet, (255, 0, 0))[4] == 100 * 100 * 100


@pytest.mark.parametrize(
    "text", ["x" * 5000, "word " * 2000, "two\nlines\tand \x1b a bell \x07", "鳥が翼を広げる \udcff", " "]
)
def test_no_text_breaks_a_sheet(text: str) -> None:
    plain = contact_sheet([[RED]], ["eta"], ["seed"])
    sheet = contact_sheet([[RED]], ["eta"], ["seed"], text)
    assert sheet.width == plain.width
    assert where(sheet, (255, 0, 0))[4] == 96 * 72
    assert sheet.height - plain.height < 100


def test_long_column_labels_shrink_into_their_columns() -> None:
    sheet = contact_sheet([[RED, GREEN]], ["eta 0.6000000 and more"] * 2, ["seed 0"])
    red, green = where(sheet, (255, 0, 0)), where(sheet, (0, 128, 0))
    assert ink(sheet, (red[2], 0, green[0], red[1])) == 0


def test_pictures_of_other_modes_and_no_mutation() -> None:
    grey = Image.new("L", (96, 72), 77)
    sheet = contact_sheet([[grey]], ["eta"], ["seed"])
    assert sheet.mode == "RGB"
    assert where(sheet, (77, 77, 77))[4] >= 96 * 72
    assert grey.mode == "L"


def test_labels_that_do_not_agree_are_refused() -> None:
    for cells, columns, rows in (
        ([[RED]], ETAS, ["a"]),
        ([[RED]], ["a"], SEEDS),
        ([[None]], ["a"], ["b"]),
        ([], [], []),
    ):
        with pytest.raises(ValueError, match="a contact sheet takes"):
            contact_sheet(cells, columns, rows)  # type: ignore[arg-type]


def test_pixels_of_small_pictures_become_squares_that_people_see() -> None:
    small = Image.new("RGB", (32, 24), "red")
    small.putpixel((5, 7), (0, 0, 255))
    sheet = contact_sheet([[small, None]], ETAS, ["seed 0"])
    left, top, right, bottom, count = where(sheet, (255, 0, 0))
    assert (right - left, bottom - top, count) == (96, 72, 96 * 72 - 9)
    assert where(sheet, (0, 0, 255)) == (left + 15, top + 21, left + 18, top + 24, 9)
