"""`imagic study`: what is asked, and what follows from the answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import studies
from drive import done, imagic
from PIL import Image
from studies import SHADES, TEXTS, asked, built, picture

from imagic_cli.errors import InputError
from imagic_cli.evaluation.intervals import exact
from imagic_cli.evaluation.plots import preferences
from imagic_cli.manifest import Pair, read_pairs, results


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studies.make(tmp_path_factory.mktemp("a study"))


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


def test_scores_of_several_raters(place: Path, tmp_path: Path) -> None:
    page = built(place, tmp_path / "out", methods=("imagic", "sdedit", "ddib"))
    first = saved("a.json", sheet(page, "a", ["imagic", "imagic", "ddib", "imagic", "ddib", "sdedit", "imagic"]))
    second = saved("b.json", sheet(page, "b", ["sdedit", "imagic", "ddib"]))
    silent = saved("c.json", sheet(page, "c", []))
    told = done("study", "score", first, second, silent, "--json", "--out", "rates.svg")
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
    assert "<svg" in Path("rates.svg").read_text() and "answers of 2 raters" in Path("rates.svg").read_text()
    assert rows[-2]["event"] == "note" and "the left picture was chosen in 60.0 %" in rows[-2]["text"]


def test_a_plot_takes_any_name() -> None:
    drawn = preferences({r"猫 $\no$ & <b>": (0.5, 0.1, 0.9), "b": (1.0, 0.4, 1.0)}, r"$\no$ 猫")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


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
        (3, ["a=m", "b=m", "--inputs", "bad.csv"], "bad.csv cannot be read: its first line names no column text"),
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
