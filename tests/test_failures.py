"""Candidates for the paper's two kinds of failure: made-up figures, and the page that shows them in a real browser."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from browser import browser, keep_shot, quiet_page
from PIL import Image

from imagic_cli.evaluation.beside import Beside
from imagic_cli.evaluation.failures import MOVED, SUBTLE, Candidates, candidates
from imagic_cli.evaluation.summary import Entry, summary
from imagic_cli.evaluation.table import Table
from imagic_cli.names import picture_name
from imagic_cli.pages.evaluation_page import MOST_SHOWN, write

CLIP, SSIM = "clip_score[x]", "ssim"
# Text alignment and fidelity at eta 0, 0.6 and 0.8.
GOOD = [(20, 0.9), (22, 0.85), (24, 0.8)]
BLAND = [(20, 0.9), (20.5, 0.9), (21, 0.88)]
STRAYED = [(20, 0.9), (21, 0.65), (24, 0.4)]
Points = list[tuple[float, float]]


def table(points: Points, etas: tuple[str, ...] = ("0.000", "0.600", "0.800"), alignment: str | None = CLIP) -> Table:
    rows = {(eta, 0): {CLIP: float(a), SSIM: float(f)} for eta, (a, f) in zip(etas, points, strict=True)}
    return Table(rows, alignment, SSIM)


def found(edits: Mapping[str, Points]) -> Candidates:
    return candidates({name: table(points) for name, points in edits.items()})


def kinds(judged: Candidates) -> dict[str, str | None]:
    return {name: verdict.kind and verdict.kind.name for name, verdict in judged.verdicts.items()}


def test_both_kinds_are_told_from_good_edits_and_other_failures() -> None:
    lost: Points = [(20, 0.9), (20.2, 0.6), (20.1, 0.3)]
    judged = found({"a": GOOD, "b": BLAND, "c": STRAYED, "d": GOOD, "e": lost, "f": GOOD})
    assert kinds(judged) == {"a": None, "b": "too subtle", "c": "moved", "d": None, "e": None, "f": None}
    assert judged.typical is not None
    assert (judged.typical.gain, judged.typical.loss) == pytest.approx((4, 0.05))
    look = judged.verdicts["b"].look
    assert (look.eta, look.lowest, look.aligned, look.gain) == ("0.800", "0.000", (20, 21), 1)
    assert judged.verdicts["c"].look.loss == pytest.approx(0.5)


def test_one_good_picture_is_enough() -> None:
    # The text is met at 0.8 by a picture that has strayed, and at 0.6 by one that has not.
    judged = found({"a": GOOD, "b": GOOD, "c": [(20, 0.9), (22, 0.8), (26, 0.2)]})
    assert kinds(judged)["c"] is None and judged.verdicts["c"].look.eta == "0.600"
    seeds = {**table(BLAND).rows, **{(eta, 1): row for (eta, _seed), row in table(GOOD).rows.items()}}
    judged = candidates({"a": table(GOOD), "b": table(GOOD), "c": Table(seeds, CLIP, SSIM)})
    assert kinds(judged)["c"] is None and judged.verdicts["c"].look.seed == 1


def test_a_picture_is_compared_with_its_own_seed() -> None:
    rows = {**table(GOOD).rows, ("0.000", 1): {CLIP: 30.0, SSIM: 0.9}, ("0.800", 1): {CLIP: 30.5, SSIM: 0.9}}
    rows |= {("0.800", 2): {CLIP: 90.0, SSIM: 0.9}}
    look = candidates({"a": Table(rows, CLIP, SSIM)}).verdicts["a"].look
    assert (look.eta, look.seed, look.gain) == ("0.600", 0, 2)


def test_the_worst_come_first_and_equals_in_their_order() -> None:
    nothing: Points = [(20, 0.9), (20, 0.9), (20, 0.9)]
    gone: Points = [(20, 0.9), (24, 0.1), (24, 0.1)]
    good = {f"good {number}": GOOD for number in range(7)}
    judged = found({"b": BLAND, "c": STRAYED, "a": BLAND, "n": nothing, "g": gone, "f": gone, **good})
    assert judged.worst(SUBTLE) == ["n", "b", "a"]
    assert judged.worst(MOVED) == ["g", "f", "c"]


def test_equal_edits_fail_only_if_they_gain_nothing() -> None:
    same = {"a": GOOD, "b": GOOD, "c": GOOD}
    assert set(kinds(found(same)).values()) == {None}
    assert set(kinds(found(dict.fromkeys(same, [(20, 0.9)] * 3))).values()) == {"too subtle"}


@pytest.mark.parametrize(
    ("points", "kind"), [(GOOD, None), (STRAYED, None), ([(20, 0.9), (19, 0.9), (20, 0.8)], "too subtle")]
)
def test_one_edit_alone_can_only_be_too_subtle(points: Points, kind: str | None) -> None:
    assert kinds(found({"a": points})) == {"a": kind}


def test_where_the_typical_edit_loses_nothing_any_loss_counts() -> None:
    closer: Points = [(20, 0.8), (22, 0.82), (24, 0.85)]
    judged = found({"a": closer, "b": closer, "c": [(20, 0.8), (24, 0.79), (24, 0.7)]})
    assert kinds(judged) == {"a": None, "b": None, "c": "moved"}


def test_what_lacks_figures_is_not_judged() -> None:
    tables = {
        "no alignment": table(GOOD, alignment=None),
        "no reconstruction": table(GOOD, ("0.400", "0.600", "0.800")),
        "nothing useful": table(GOOD, ("0.000", "0.500", "0.900")),
        "only seed 1 has one": Table({("0.000", 1): {CLIP: 1, SSIM: 1}, ("0.700", 0): {CLIP: 2, SSIM: 1}}, CLIP, SSIM),
    }
    judged = candidates(tables)
    assert judged.verdicts == {} and judged.typical is None and judged.worst(MOVED) == []
    assert list(candidates({**tables, "whole": table(GOOD)}).verdicts) == ["whole"]
    assert candidates({}).typical is None


def evaluated(folder: Path, edits: Mapping[str, Points], alignment: bool = True) -> Path:
    """What an evaluation leaves: a result with pictures of one colour for each edit."""
    (folder / "results").mkdir(parents=True)
    for number, (text, points) in enumerate(edits.items(), 1):
        name = f"{number:04d}-an edit"
        images = folder / name / "images"
        images.mkdir(parents=True)
        Image.new("RGB", (64, 48), (60, 120, 200)).save(folder / name / "image.png")
        rows = []
        for (eta, seed), row in table(points).rows.items():
            rows.append({"eta": eta, "seed": seed, **(row if alignment else {SSIM: row[SSIM]})})
            Image.new("RGB", (64, 48), (200, 90, round(250 * row[SSIM]))).save(images / picture_name(eta, seed))
        Image.new("RGB", (64, 48)).save(images / "sheet.png")
        result = {"text": text, "image": f"{name}/image.png", "sheet": f"{name}/images/sheet.png", "rows": rows}
        (folder / "results" / f"{name}.json").write_text(json.dumps(result))
    listed = [Entry(f"{number:04d}-an edit", folder / "none.png", text) for number, text in enumerate(edits, 1)]
    write(folder, summary(folder, listed, list(table(GOOD).rows)), Beside())
    return folder


def mixed() -> dict[str, Points]:
    good = {f"a good edit {number}": GOOD for number in range(3)}
    return {"a <b>bland</b> bird & its " + "l" * 80: BLAND, **good, "a dog, from 100% elsewhere": STRAYED}


def test_every_edit_is_in_the_table(tmp_path: Path) -> None:
    out = evaluated(tmp_path / "out", mixed())
    with (out / "edits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["too subtle", "neither", "neither", "neither", "moved"]
    assert rows[0]["text"].startswith("a <b>") and rows[0]["edit"] == "0001-an edit"
    moved = [rows[4][name] for name in ("eta", "seed", "lowest eta", f"{CLIP} gained", f"{SSIM} lost")]
    assert moved == ["0.800", "0", "0.000", "4", "0.5"]
    assert "1 too subtle, 1 moved, 3 of neither kind, 0 not judged." in (out / "summary.md").read_text()


def test_a_set_without_text_alignment_is_said_not_to_be_judged(tmp_path: Path) -> None:
    out = evaluated(tmp_path / "out", mixed(), alignment=False)
    assert "Not looked for." in (out / "index.html").read_text()
    assert (
        "0001-an edit,a <b>" in (out / "edits.csv").read_text() and "5 not judged" in (out / "summary.md").read_text()
    )


def test_the_page_shows_the_worst_only(tmp_path: Path) -> None:
    edits = {f"bland {number}": BLAND for number in range(MOST_SHOWN + 2)} | {f"good {n}": GOOD for n in range(20)}
    page = (evaluated(tmp_path / "out", edits) / "index.html").read_text()
    assert page.count('<div class="pair">') == MOST_SHOWN and f"The {MOST_SHOWN} worst are shown" in page
    assert "Moved: 0 of 28" in page and page.count('<ol class="advice">') == 1


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("desktop", 1200), ("phone", 390)])
def test_the_page_opens_from_a_file(name: str, width: int, scheme: str, tmp_path: Path, opened: Any) -> None:
    out = evaluated(tmp_path / "ein Vögel #1", mixed())
    with quiet_page(opened, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.goto((out / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cards = page.locator(".pairs > li")
        assert ["bland" in text for text in cards.all_inner_texts()] == [True, False]
        assert "20 → 24 (+4)" in cards.nth(1).inner_text() and "0.9 → 0.4 (-0.5)" in cards.nth(1).inner_text()
        for image in page.locator(".pairs img").all():
            image.scroll_into_view_if_needed()
            page.wait_for_function("image => image.complete && image.naturalWidth === 64", arg=image.element_handle())
        keep_shot(page, f"evaluation-{name}-{scheme}")
