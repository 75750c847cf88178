"""`imagic study`: the page's questions, answered in a real browser, and what follows from the answers."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, keep_shot, quiet_page
from drive import done, imagic
from PIL import Image

from imagic_cli.errors import InputError
from imagic_cli.evaluation.intervals import exact
from imagic_cli.study.inputs import Pair, read_pairs, results

SHADES = {"imagic": 200, "sdedit": 120, "ddib": 60}
TEXTS = ["a red bird <b>& more</b>", "a blue bird", "ein grüner Vogel"]


def picture(path: Path, *colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs with three texts, and three methods' results, of which ddib lacks one."""
    folder = tmp_path_factory.mktemp("a study")
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
            picture(folder / method / "sub" / ".." / "other bird.png", shade, 3, 3)
    return folder


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


def built(place: Path, out: Path, *flags: object, methods: tuple[str, ...] = ("imagic", "sdedit")) -> Path:
    named = [f"{method}={place / method}" for method in methods]
    (page,) = done("study", "build", *named, "--inputs", place / "pairs.csv", "--out", out, *flags).lines
    return Path(page)


def asked(page: Path) -> dict[str, Any]:
    (found,) = re.findall(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found)


def sheet(page: Path, rater: str, chosen: list[str], **changed: object) -> dict[str, Any]:
    """Answers as the page makes them: the first method left, and who was chosen."""
    study = asked(page)
    answers = []
    for trial, choice in zip(study["trials"], chosen, strict=False):
        left, right = (edit["method"] for edit in trial["edits"])
        side = {left: "left", right: "right"}[choice]
        answers.append({"trial": trial["trial"], "left": left, "right": right, "chosen": side, "seconds": 1.5})
    about = {name: study[name] for name in ("version", "seed", "methods", "questions")}
    about |= {"kind": "imagic study answers", "study": study["id"], "trials": len(study["trials"])}
    return about | {"rater": rater, "saved": "2026-01-01T00:00:00.000Z", "answers": answers} | changed


def saved(name: str, content: object) -> Path:
    path = Path(name)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_two_methods_with_a_result_make_a_question(place: Path, tmp_path: Path) -> None:
    named = [f"{method}={place / method}" for method in SHADES]
    told = done("study", "build", *named, "--inputs", place / "pairs.csv", "--out", tmp_path / "out")
    assert "warning: ddib has no result for 1 of 3 pairs, such as 'other bird.jpeg'" in told.err
    study = asked(tmp_path / "out" / "index.html")
    pairs = [(trial["text"], *(edit["method"] for edit in trial["edits"])) for trial in study["trials"]]
    three = [("imagic", "sdedit"), ("imagic", "ddib"), ("sdedit", "ddib")]
    assert pairs == [(text, *two) for text in TEXTS[:2] for two in three] + [(TEXTS[2], "imagic", "sdedit")]
    for trial in study["trials"]:
        for edit in trial["edits"]:
            shown = Image.open(tmp_path / "out" / edit["picture"])
            assert shown.getpixel((0, 0))[0] == SHADES[edit["method"]] and shown.info == {}
    assert study["questions"] == 7


def test_nothing_to_be_seen_tells_a_method(place: Path, tmp_path: Path) -> None:
    page = built(place, tmp_path / "out").read_text("utf-8")
    for script in re.findall(r"<(?:script|style).*?</(?:script|style)>", page, re.DOTALL):
        page = page.replace(script, "")
    names = [path.name for path in (tmp_path / "out" / "pictures").iterdir()]
    assert len(names) == 8 and all(re.fullmatch(r"[0-9a-f]{24}\.png", name) for name in names)
    assert not any(method in page for method in SHADES)


def test_the_same_study_is_the_same_bytes_and_another_is_refused_there(place: Path, tmp_path: Path) -> None:
    page = built(place, tmp_path / "out")
    before = page.read_bytes()
    assert built(place, tmp_path / "out").read_bytes() == before
    named = [f"{method}={place / method}" for method in ("imagic", "sdedit")]
    command = ["study", "build", *named, "--inputs", place / "pairs.csv", "--out", tmp_path / "out", "--seed", 1]
    result = imagic(*command)
    assert result.code == 3 and "holds another study" in result.err
    assert page.read_bytes() == before


def test_a_tedbench_folder_and_its_published_names(tmp_path: Path) -> None:
    entries = [("dog.png", "A photo of a sitting dog."), ("bird.png", "A bird."), ("bird.jpeg", "A bird.")]
    told = [{"img_name": name, "target_text": text} for name, text in entries]
    (tmp_path / "input_list.json").write_text(json.dumps(told))
    pairs = read_pairs(tmp_path)
    assert pairs[0] == Pair(tmp_path / "originals" / "dog.png", "A photo of a sitting dog.")
    for name in ("dog.png-A_photo_of_a_sitting_dog", "bird.png-A_bird", "bird.jpeg-A_bird"):
        picture(tmp_path / "imagic" / f"{name}.png", 1, 2, 3)
    found = results(tmp_path / "imagic", pairs)
    assert [found[pair].name.split("-")[0] for pair in pairs] == ["dog.png", "bird.png", "bird.jpeg"]
    picture(tmp_path / "imagic" / "DOG.png", 1, 2, 3)
    with pytest.raises(InputError, match="are both results for 'dog.png'"):
        results(tmp_path / "imagic", pairs)


def test_a_manifest_may_name_the_results(tmp_path: Path) -> None:
    lines = ['{"image": "a.png", "text": "x", "name": "set/1"}', "", '{"image": "a.png", "text": "x", "name": "set/2"}']
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    picture(tmp_path / "m" / "set" / "2.webp", 1, 2, 3)
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    assert results(tmp_path / "m", pairs) == {pairs[1]: tmp_path / "m" / "set" / "2.webp"}


# Of 95 %: Clopper and Pearson's tables give them to three digits, R's binom.test to these.
@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.3084971),
        (10, 10, 0.6915029, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (1, 20, 0.00126509, 0.2487328),
        (682, 925, 0.7076683, 0.7654066),
        (6500, 9213, 0.6960992, 0.7148203),
    ],
)
def test_exact_intervals(successes: int, count: int, low: float, high: float) -> None:
    found = exact(successes, count)
    assert (found.mean, found.count) == (successes / count, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-7)


def test_no_share_no_interval() -> None:
    for successes, count in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="is no share"):
            exact(successes, count)


def test_scores_of_several_raters(place: Path, tmp_path: Path) -> None:
    page = built(place, tmp_path / "out", methods=("imagic", "sdedit", "ddib"))
    first = saved("a.json", sheet(page, "a", ["imagic", "imagic", "ddib", "imagic", "ddib", "sdedit", "imagic"]))
    second = saved("b.json", sheet(page, "b", ["sdedit", "imagic", "ddib"]))
    told = done("study", "score", first, second, "--json", "--out", "rates.svg")
    rows = [json.loads(line) for line in told.lines]
    wanted = [("imagic", "sdedit", 4, 3), ("imagic", "ddib", 3, 2), ("sdedit", "ddib", 3, 1)]
    for row, (method, against, count, preferred) in zip(rows, wanted, strict=False):
        interval = exact(preferred, count)
        assert (row["method"], row["against"], row["answers"], row["preferred"]) == (
            method,
            against,
            str(count),
            str(preferred),
        )
        assert row["rate"] == f"{100 * preferred / count:.1f} %"
        assert (row["95 % from"], row["to"]) == (f"{100 * interval.low:.1f} %", f"{100 * interval.high:.1f} %")
    assert rows[-1] == {"event": "result", "plot": "rates.svg"}
    assert "<svg" in Path("rates.svg").read_text() and "the left picture was chosen in 60.0 %" in told.err


def test_answers_that_cannot_be_counted_are_refused_in_one_line(place: Path, tmp_path: Path) -> None:
    page, other = built(place, tmp_path / "out"), built(place, tmp_path / "other", "--seed", 1)
    good = sheet(page, "a", ["imagic", "sdedit"])
    saved("good.json", good)
    twice = good | {"rater": "b", "answers": [good["answers"][0]] * 2}
    stray = good | {"rater": "b", "answers": [good["answers"][0] | {"trial": 9}]}
    third = good | {"rater": "b", "answers": [good["answers"][0] | {"left": "magic"}]}
    same = good | {"rater": "b", "answers": [good["answers"][0] | {"left": "sdedit"}]}
    cases: list[tuple[object, str]] = [
        (sheet(other, "b", ["imagic"]), "are of different studies"),
        (good, "are both of rater 'a'"),
        (twice, "a question is answered twice"),
        (stray, "to no question of the study"),
        (third, "names a method that is not in the study"),
        (same, "stood against itself"),
        (good | {"rater": "b", "extra": 1}, "holds no answers of a study (extra:"),
        (good | {"version": 2}, "holds no answers of a study (version:"),
        (json.dumps(good)[:-20], "holds no answers of a study"),
        ("[]", "holds no answers of a study"),
    ]
    for content, part in cases:
        result = imagic("study", "score", "good.json", saved("other.json", content))
        assert (result.code, part in result.err, len(result.err.splitlines())) == (3, True, 1), (part, result.err)
        assert not Path("preferences.svg").exists()
    empty = imagic("study", "score", saved("empty.json", good | {"answers": []}))
    assert empty.code == 3 and "no answer in these files" in empty.err


@pytest.mark.parametrize(
    ("code", "typed", "part"),
    [
        (2, ["imagic=m"], "two or more methods"),
        (2, ["imagic", "b=m"], "'imagic' is not METHOD=FOLDER"),
        (2, ["=m", "b=m"], "is not METHOD=FOLDER"),
        (2, ["a=m", "a=m"], "'a' is named twice"),
        (3, ["a=nowhere", "b=m"], "nowhere is not a folder of results"),
        (2, ["a=m", "b=m"], "no two methods have results"),
        (3, ["a=m", "b=m", "--inputs", "m"], "m is no list of inputs"),
        (3, ["a=m", "b=m", "--inputs", "bad.csv"], "bad.csv, line 2: no image and text"),
        (3, ["a=m", "b=m", "--inputs", "bad.jsonl"], "bad.jsonl cannot be read"),
        (3, ["a=m", "b=m", "--inputs", "empty.csv"], "empty.csv names no inputs"),
        (3, ["a=good", "b=good"], "there is no such file"),
        (2, ["a=good", "b=good", "--questions", "0"], "--questions"),
        (3, ["a=good", "b=good", "--out", "m"], "m holds other files"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(code: int, typed: list[str], part: str) -> None:
    picture(Path("m/stray.png"), 1, 1, 1)
    picture(Path("good/bird.png"), 1, 1, 1)
    Path("pairs.csv").write_text("image,text\nbird.png,a bird\n")
    Path("bad.csv").write_text("image,words\nbird.png,a bird\n")
    Path("bad.jsonl").write_text("{")
    Path("empty.csv").write_text("image,text\n")
    flags = [] if "--inputs" in typed else ["--inputs", "pairs.csv"]
    flags += [] if "--out" in typed else ["--out", "out"]
    result = imagic("study", "build", *typed, *flags)
    assert (result.code, part in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) <= 3 and not Path("out").exists()


def test_a_study_does_without_torch(place: Path, tmp_path: Path) -> None:
    named = [f"{method}={place / method}" for method in ("imagic", "sdedit")]
    build = ["study", "build", *named, "--inputs", str(place / "pairs.csv"), "--out", "out"]
    saved("a.json", sheet(built(place, tmp_path / "out"), "a", ["imagic"]))
    calls = [build, ["study", "score", "a.json"], ["study", "build", "x"], ["study", "score"], ["study", "--help"]]
    script = (
        "import sys\n"
        "from imagic_cli.cli import run\n"
        f"codes = [run(typed) for typed in {calls!r}]\n"
        "assert (codes, 'torch' in sys.modules) == ([0, 0, 2, 2, 0], False), codes\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=environment)
    assert made.returncode == 0, made.stderr[-2000:]
    assert b"100.0 %" in made.stdout and Path("preferences.svg").exists()


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
    rows = [json.loads(line) for line in done("study", "score", "answers.json", "--json").lines]
    found = [(row["method"], row["against"], row["answers"], row["preferred"]) for row in rows[:-1]]
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
