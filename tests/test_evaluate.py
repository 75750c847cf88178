"""`imagic evaluate`: lists of edits, failures that are recorded and passed over, shards, and the summary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import toys
from drive import Result, done, imagic
from PIL import Image

from imagic_cli.errors import InputError
from imagic_cli.evaluation import evaluate
from imagic_cli.evaluation.summary import Summary, entries, summary
from imagic_cli.fit import Step
from imagic_cli.manifest import Pair, read_pairs
from imagic_cli.stages import training
from imagic_cli.updates import Updates

GRID = ["--eta", "0,1", "--seed", "0:2", "--steps", 2, "--optimize-steps", 2, "--finetune-steps", 2]


def partly(*arguments: object) -> Result:
    """A command that makes some edits, and fails at the photograph that is not there."""
    result = imagic(*arguments)
    assert (result.code, "1 of 3 edits failed; 0002-none-a-dog: " in result.err) == (3, True), result.err
    return result


def summed(pairs: Path, out: Path) -> Summary:
    """What `GRID` on that list comes to."""
    return summary(out, entries(read_pairs(pairs)), [(eta, seed) for eta in ("0.000", "1.000") for seed in (0, 1)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two good edits, one of a picture that is not there, one with a text like HTML."""
    toys.picture(48).save(tmp_path / "a b.png")
    lines = [("a b.png", "a bird"), ("none.png", "a dog"), ("a b.png", "<b>a cat</b>")]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"image": image, "text": text}) + "\n" for image, text in lines))
    return path


def test_a_list_is_edited_measured_and_averaged(pairs: Path, models: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--clip", clip, *GRID]
    told = partly(*command)
    assert [Path(line).name for line in told.lines[-4:]] == ["summary.md", "edits.csv", "tradeoff.svg", "index.html"]
    found = summed(pairs, out)
    assert list(found.results) == ["0001-a-b-a-bird", "0003-a-b-b-a-cat-b"]
    assert {name: failure["code"] for name, failure in found.failures.items()} == {"0002-none-a-dog": 3}
    rows = [row for each in found.results.values() for row in each["rows"] if row["eta"] == "0.000"]
    assert len(rows) == 4
    assert found.curves["ssim"]["0.000"].mean == pytest.approx(sum(row["ssim"] for row in rows) / 4)
    assert found.curves["ssim"]["0.000"].count == 2
    # Whole, though eighty columns are too few for it.
    (head,) = [line for line in told.out.splitlines() if "psnr_db" in line]
    assert f"clip_score[{clip}]" in head and "…" not in told.out
    page = (out / "index.html").read_text()
    assert "&lt;b&gt;a cat&lt;/b&gt;" in page and "<b>a cat</b>" not in page
    for name in found.results:
        assert f"{name}/image.png" in page and (out / name / "images" / "sheet.png").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    partly(*command)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}


def test_other_methods_are_measured_over_the_edits_that_all_have(
    pairs: Path, models: Path, clip: Path, tmp_path: Path
) -> None:
    out, same, other = tmp_path / "out", tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
    # Of another size and shape: scaled, and cut evenly above and below, it is the input again.
    tall = Image.new("RGB", (96, 160), "red")
    tall.paste(toys.picture(48).resize((96, 96), Image.Resampling.NEAREST), (0, 32))
    tall.save(same / "a b-a bird.png")
    tall.save(same / "A-b-b-a-cat-b.webp", lossless=True)
    Image.new("RGB", (48, 48), "grey").save(other / "a b.png-a bird.jpg")
    # Of the edit that fails: nothing to be set beside.
    Image.new("RGB", (48, 48), "grey").save(other / "none.png")
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--clip", clip, "--size", 48, *GRID]
    told = partly(*command, "--beside", f"same={same}", "--beside", f"SD edit={other}")
    assert Path(told.lines[-1]).name == "methods.svg"
    found = summed(pairs, out)
    (first, _second) = found.results
    text = (out / "summary.md").read_text()
    assert "Over the 1 edit that every method has a picture of" in text
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith(("| imagic |", "| same |", "| SD edit |"))]
    assert [row[:2] for row in rows] == [
        ["| imagic", "0.000"],
        ["| imagic", "1.000"],
        ["| same", ""],
        ["| SD edit", ""],
    ]
    ssim = 2 + list(found.curves).index("ssim")
    own = [row["ssim"] for row in found.results[first]["rows"] if row["eta"] == "0.000"]
    assert float(rows[0][ssim].split()[0]) == pytest.approx(sum(own) / 2, rel=1e-3)
    assert float(rows[2][ssim].split()[0]) > 0.95 > float(rows[3][ssim].split()[0])
    page = (out / "index.html").read_text()
    assert f"beside/sd-edit/{first}.png" in page and (out / "beside" / "sd-edit" / f"{first}.png").exists()
    partly(*command)
    assert "Over the" not in (out / "summary.md").read_text()


@pytest.mark.parametrize(
    ("code", "given", "told"),
    [
        (2, ["imagic=other"], "none is called imagic"),
        (2, ["sd-edit=other", "SD edit=other"], "told apart by letters and digits"),
        (2, ["other"], "'other' is not METHOD=FOLDER"),
        (3, ["sdedit=nowhere"], "nowhere is not a folder of results"),
    ],
)
def test_results_that_are_none_are_refused_before_the_work(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, given: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()
    result = imagic("evaluate", pairs, *(flag for each in given for flag in ("--beside", each)))
    assert result.code == code and told in result.err
    assert not Path("runs").exists()


def test_another_methods_picture_that_is_damaged_is_named(pairs: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a b-a bird.png").write_bytes(b"no picture")
    command = ["evaluate", pairs, "--out", tmp_path / "out", "--model", models / "sd", "--limit", 1, *GRID]
    result = imagic(*command, "--beside", f"x={tmp_path / 'bad'}")
    assert result.code == 3 and "a b-a bird.png" in result.err
    assert len(list((tmp_path / "out" / "results").iterdir())) == 1


def test_figures_of_another_network_are_not_set_beside(
    pairs: Path, models: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "same").mkdir()
    toys.picture(48).save(tmp_path / "same" / "a b-a bird.png")
    out = tmp_path / "out"
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--limit", 1, "--clip", clip, *GRID]
    done(*command)
    # As from a machine that has one more network than this one.
    path = out / "results" / "0001-a-b-a-bird.json"
    result = json.loads(path.read_text())
    result["rows"] = [row | {"lpips": 0.5} for row in result["rows"]]
    path.write_text(json.dumps(result))
    result = imagic(*command, "--beside", f"same={tmp_path / 'same'}")
    assert result.code == 3 and "was measured with lpips, which is not at hand" in result.err


def test_clip_is_loaded_once_for_all_edits(
    pairs: Path, models: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = mock.Mock(side_effect=evaluate.aligner)
    monkeypatch.setattr(evaluate, "aligner", loaded)
    partly("evaluate", pairs, "--out", tmp_path / "out", "--model", models / "sd", "--clip", clip, *GRID)
    assert len(summed(pairs, tmp_path / "out").results) == 2 and loaded.call_count == 1


def test_a_model_that_is_not_there_is_refused_once_for_the_whole_list(pairs: Path, tmp_path: Path) -> None:
    for flags, code in ((["--preset", "none"], 2), (["--model", tmp_path / "none"], 9)):
        result = imagic("evaluate", pairs, "--out", tmp_path / "out", *flags, *GRID)
        assert result.code == code and len(result.err.strip().splitlines()) == 1, result.err
        assert not (tmp_path / "out").exists()


def test_a_failure_goes_once_its_edit_is_done(pairs: Path, models: Path, clip: Path, tmp_path: Path) -> None:
    command = ["evaluate", pairs, "--out", tmp_path / "out", "--model", models / "sd", "--clip", clip, *GRID]
    partly(*command, "--discard-weights")
    toys.picture(32).save(tmp_path / "none.png")
    done(*command, "--discard-weights")
    found = summed(pairs, tmp_path / "out")
    assert len(found.results) == 3 and not found.failures
    assert not list((tmp_path / "out").rglob("weights.safetensors"))


def test_shards_do_each_edit_once(pairs: Path, models: Path, clip: Path, tmp_path: Path) -> None:
    flags = ["--out", tmp_path / "out", "--model", models / "sd", "--clip", clip, *GRID]
    done("evaluate", pairs, "--shard", "1/2", "--limit", 2, *flags)
    assert list(summed(pairs, tmp_path / "out").results) == ["0001-a-b-a-bird"]
    assert not summed(pairs, tmp_path / "out").failures
    second = ["evaluate", pairs, "--shard", "2/2", "--limit", 2, *flags]
    result = imagic(*second)
    assert (result.code, "1 of 1 edit failed" in result.err) == (3, True)
    # What fails elsewhere is no failure of this part.
    done("evaluate", pairs, "--shard", "1/2", "--limit", 2, *flags)
    assert len(summed(pairs, tmp_path / "out").failures) == 1


def test_nothing_but_failures_is_told(models: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image,text\nnone.png,a bird\n")
    result = imagic("evaluate", tmp_path / "pairs.csv", "--out", tmp_path / "out", "--model", models / "sd", *GRID)
    assert result.code == 3 and "holds no results; 0001-none-a-bird: " in result.err


def test_figures_of_two_networks_are_not_averaged(pairs: Path, models: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partly("evaluate", pairs, "--out", out, "--model", models / "sd", "--clip", clip, *GRID)
    path = out / "results" / "0003-a-b-b-a-cat-b.json"
    path.write_text(path.read_text().replace(f"clip_score[{clip}]", "clip_score[another]"))
    with pytest.raises(InputError, match="different networks"):
        summed(pairs, out)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps", 1], "generate steps 2 -> 1"),
        (["--optimize-steps", 1], "optimize steps 2 -> 1"),
        (["--finetune-steps", 1], "finetune steps 2 -> 1"),
        (["--size", 64], "photo size null -> 64"),
        (["--model", "sketchbook"], "model changed"),
        (["--clip", "another"], "clip "),
    ],
)
def test_results_of_other_settings_are_not_taken_for_these(
    evaluated: tuple[Path, list[object]], flags: list[object], told: str
) -> None:
    out, command = evaluated
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    result = imagic(*command, *flags)
    assert (result.code, "name another --out" in result.err, told in result.err) == (3, True, True), result.err
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before


@pytest.fixture(scope="module")
def evaluated(models: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """The folder of one edit, and the command that made it."""
    folder = tmp_path_factory.mktemp("evaluated")
    toys.picture(48).save(folder / "a.png")
    (folder / "pairs.csv").write_text("image,text\na.png,a bird\n")
    command = ["evaluate", folder / "pairs.csv", "--out", folder / "out", "--model", models / "sd", "--clip", clip]
    done(*command, *GRID)
    return folder / "out", [*command, *GRID]


def test_another_grid_is_added_and_what_was_asked_for_counts(pairs: Path, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--limit", 1, *GRID]
    done(*command)
    done(*command, "--eta", "0.5", "--seed", "0:1")
    (result,) = [json.loads(path.read_text()) for path in (out / "results").iterdir()]
    assert {(row["eta"], row["seed"]) for row in result["rows"]} == {
        ("0.500", 0),
        *((eta, seed) for eta in ("0.000", "1.000") for seed in (0, 1)),
    }
    listed = entries(read_pairs(pairs)[:1])
    assert list(summary(out, listed, [("0.500", 0)]).curves["ssim"]) == ["0.500"]
    assert list(summed(pairs, out).curves["ssim"]) == ["0.000", "1.000"]
    # An edit that has not all of them is not averaged with those that do.
    with pytest.raises(InputError, match="holds no results"):
        summary(out, listed, [("0.250", 0)])


def test_a_larger_grid_after_the_weights_were_discarded_needs_no_equal_bits(
    pairs: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--limit", 1, "--discard-weights", *GRID]
    done(*command)
    fine = training.fit
    # As another number of threads does.
    monkeypatch.setattr(training, "fit", lambda *given: nudged(given[0], fine(*given)))
    done(*command, "--seed", "0:3")
    (result,) = [json.loads(path.read_text()) for path in (out / "results").iterdir()]
    assert sorted((row["eta"], row["seed"]) for row in result["rows"]) == [
        (eta, seed) for eta in ("0.000", "1.000") for seed in (0, 1, 2)
    ]
    assert imagic("check", out / "0001-a-b-a-bird").code == 0


def nudged(updates: Updates, steps: Iterator[Step]) -> Iterator[Step]:
    """The same steps, to a slightly different place."""
    yield from steps
    for part in updates.parts:
        for row in part.rows:
            row.numbers.mul_(1.001)


@pytest.mark.parametrize("content", ["{", "5", '{"rows": []}'])
def test_a_damaged_result_is_made_again(evaluated: tuple[Path, list[object]], content: str) -> None:
    out, command = evaluated
    (path,) = (out / "results").iterdir()
    before = json.loads(path.read_text())
    path.write_text(content)
    done(*command)
    assert json.loads(path.read_text())["rows"] == before["rows"]


def test_a_photograph_or_a_text_that_has_changed_is_no_longer_done(pairs: Path, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", pairs, "--out", out, "--model", models / "sd", "--limit", 1, *GRID]
    done(*command)
    (result,) = (out / "results").iterdir()
    before = result.stat().st_mtime_ns
    # Equal pixels are the same photograph.
    with Image.open(tmp_path / "a b.png") as image:
        image.save(tmp_path / "a b.png", compress_level=0)
    done(*command)
    assert result.stat().st_mtime_ns != before
    pairs.write_text(pairs.read_text().replace("a bird", "a bird!"))
    told = imagic(*command)
    assert (told.code, "holds no results" in told.err) == (4, True), told.err
    pairs.write_text(pairs.read_text().replace("a bird!", "a bird"))
    toys.picture(32).save(tmp_path / "a b.png")
    told = imagic(*command)
    assert (told.code, "holds no results" in told.err) == (4, True), told.err
    (failure,) = (out / "failures").iterdir()
    assert "image changed" in failure.read_text() and f"remove {out / '0001-a-b-a-bird'}," in failure.read_text()
    shutil.rmtree(out / "0001-a-b-a-bird")
    done(*command)
    assert not list((out / "failures").iterdir())


def test_every_edit_has_a_name_of_its_own() -> None:
    pairs = [Pair(Path("a b.png"), "A dog."), Pair(Path("a b.png"), "A dog.")]
    assert [entry.name for entry in entries(pairs)] == ["0001-a-b-a-dog", "0002-a-b-a-dog"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jsonl", "{", "cannot be read"),
        ("x.jsonl", '{"image": "a.png", "text": "a dog"}\nnot json', "cannot be read: line 2: Expecting value"),
        ("x.jsonl", "", "names no inputs"),
        ("x.jsonl", "[1]", "line 1: no image and text"),
        ("x.jsonl", '{"image": "a.png", "text": " "}', "line 1: no image and text"),
        ("x.csv", "picture,text\na.png,a dog\n", "its first line names no column image$"),
        ("x.csv", "a.png,a dog\n", "its first line names no column image or text"),
        ("x.csv", "image,text\na.png,\n", "line 2: no image and text"),
        ("x.csv", "", "names no inputs"),
        ("x.csv", b"\xff\xfe", "cannot be read"),
        ("x.txt", "a", "no list of inputs"),
        ("input_list.json", "5", "cannot be read"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=told):
        read_pairs(path if name != "input_list.json" else tmp_path)


def test_a_list_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: there is no such file or folder"):
        read_pairs(tmp_path / "none.csv")


def test_a_text_may_hold_a_separator_of_lines(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"image": "a.png", "text": "a\u2028dog"}\r\n', "utf-8")
    assert [pair.text for pair in read_pairs(tmp_path / "x.jsonl")] == ["a\u2028dog"]
