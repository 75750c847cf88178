"""The study's page in a real browser: from the first question to the downloaded file and its score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import studies
from browser import browser, keep_shot, quiet_page
from drive import done
from studies import SHADES, asked, built

from imagic_cli.evaluation.intervals import exact


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studies.make(tmp_path_factory.mktemp("a study"))


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


def begin(page: Any, path: Path, rater: str) -> None:
    page.goto(path.as_uri())
    page.locator("#rater").fill(rater)
    page.keyboard.press("Enter")
    page.locator("#left:enabled").wait_for()


def shown(page: Any) -> tuple[str, str, str]:
    """The text and the two pictures' files that are asked about now."""
    page.locator("#left:enabled").wait_for()
    sources = [page.locator(f"#{side} img").get_attribute("src") for side in ("left", "right")]
    return page.locator("#text").inner_text(), *sources


def scored(answers: str) -> list[dict[str, str]]:
    """What these answers say of each two methods."""
    events = [json.loads(line) for line in done("study", "score", answers, "--json").lines]
    return [event for event in events if event["event"] == "row"]


def test_from_the_first_question_to_the_score(place: Path, tmp_path: Path, opened: Any) -> None:
    path = built(place, tmp_path / "out", methods=("imagic", "sdedit", "ddib"))
    methods = {edit["picture"]: edit["method"] for trial in asked(path)["trials"] for edit in trial["edits"]}
    rank = list(SHADES)
    with quiet_page(opened, accept_downloads=True) as page:
        begin(page, path, "Ann Ä.")
        for number in range(7):
            assert page.locator("#count").inner_text() == f"{number + 1} of 7"
            visible = page.locator("body").inner_text()
            assert not any(method in visible for method in SHADES)
            _text, left, right = shown(page)
            # A rater who prefers imagic to sdedit to ddib.
            key = "ArrowLeft" if rank.index(methods[left]) < rank.index(methods[right]) else "ArrowRight"
            page.keyboard.press(key)
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download the answers").click()
        waiting.value.save_as("answers.json")
        assert waiting.value.suggested_filename.endswith("-Ann-Ä-.json")
    rows = scored("answers.json")
    found = [(row["method"], row["against"], row["answers"], row["preferred"]) for row in rows]
    assert found == [("imagic", "sdedit", "3", "3"), ("imagic", "ddib", "2", "2"), ("sdedit", "ddib", "2", "2")]
    assert rows[0]["95 % from"] == f"{100 * exact(3, 3).low:.1f} %"


def test_answers_are_kept_and_can_be_taken_back(place: Path, tmp_path: Path, opened: Any) -> None:
    path = built(place, tmp_path / "out")
    with quiet_page(opened) as page:
        begin(page, path, "b")
        first = shown(page)
        page.locator("#left").click()
        second = shown(page)
        page.reload()
        assert shown(page) == second and page.locator("#count").inner_text() == "2 of 3"
        with page.expect_download() as waiting:
            page.get_by_role("button", name="so far").click()
        waiting.value.save_as("part.json")
        assert len(scored("part.json")) == 1
        page.keyboard.press("Backspace")
        assert shown(page) == first
        page.evaluate(
            "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', repeat: true, bubbles: true}))"
        )
        assert shown(page) == first


def test_order_and_sides_depend_on_seed_and_rater_alone(place: Path, tmp_path: Path, opened: Any) -> None:
    methods = ("imagic", "sdedit", "ddib")
    paths = [built(place, tmp_path / f"out{seed}", "--seed", seed, methods=methods) for seed in (0, 1)]

    def order(path: Path, rater: str) -> str:
        with quiet_page(opened) as page:
            begin(page, path, rater)
            return page.evaluate("JSON.stringify(order.map((each) => [each.trial.trial, each.left.method]))")

    one = order(paths[0], "a")
    assert one == order(paths[0], "a")
    assert len({one, order(paths[0], "b"), order(paths[1], "a")}) == 3


def test_sides_are_even_and_questions_may_be_fewer(place: Path, tmp_path: Path, opened: Any) -> None:
    path = built(place, tmp_path / "out", "--questions", 2)
    with quiet_page(opened) as page:
        begin(page, path, "a")
        assert page.locator("#count").inner_text() == "1 of 2"
        left, first = page.evaluate("""() => {
            const raters = [...Array(2000).keys()].map((number) => drawn(`rater ${number}`));
            return [raters.filter((one) => one[0].left.method === "imagic").length,
                    raters.filter((one) => one[0].trial.trial === 0).length]; }""")
    assert abs(left - 1000) < 120 and abs(first - 667) < 120


def test_a_picture_that_is_gone_stops_the_questions(place: Path, tmp_path: Path, opened: Any) -> None:
    path = built(place, tmp_path / "out")
    for picture_file in (tmp_path / "out" / "pictures").iterdir():
        picture_file.unlink()
    context = opened.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    page.keyboard.press("Enter")
    page.get_by_text("cannot be shown").wait_for()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#count").inner_text() == "1 of 3"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1200, 900), ("phone", 390, 844)])
def test_it_fits_a_desktop_and_a_phone(
    name: str, width: int, height: int, scheme: str, place: Path, tmp_path: Path, opened: Any
) -> None:
    path = built(place, tmp_path / "out")
    with quiet_page(opened, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
        page.goto(path.as_uri())
        keep_shot(page, f"study-begin-{name}-{scheme}")
        begin(page, path, "a")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        box = page.locator("#right").bounding_box()
        assert box["y"] + box["height"] <= height
        keep_shot(page, f"study-{name}-{scheme}")
        for _question in range(3):
            shown(page)
            page.keyboard.press("ArrowRight")
        page.get_by_role("button", name="Download").wait_for()
        keep_shot(page, f"study-done-{name}-{scheme}")
