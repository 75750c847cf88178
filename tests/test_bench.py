"""`imagic bench sketchbook`: pairs with a known answer, every method's tries, and what the scores say together."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import contains
from PIL import Image

from imagic_cli.config import How, ModelFlags
from imagic_cli.errors import InputError, Interrupted
from imagic_cli.evaluation import silent
from imagic_cli.evaluation.fidelity import psnr
from imagic_cli.evaluation.silent import Recipe
from imagic_cli.sketchbook import bench, bench_summary
from imagic_cli.sketchbook.bench import Bench, Panel, Score, Try, trivial
from imagic_cli.sketchbook.bench_summary import (
    HEAD,
    by_field,
    cells,
    curve,
    gallery,
    leads,
    markdown,
    read,
    read_fields,
    rows,
    trade,
)
from imagic_cli.sketchbook.captions import hides_colour
from imagic_cli.sketchbook.judge import Judge, truth
from imagic_cli.sketchbook.pairs import FIELDS, pair

SMALL = Recipe({"size": 128}, {"steps": 2}, {"steps": 2}, {"steps": 2})


class Knowing(Judge):
    """Sees the scene whose drawing is nearest, among those of one pair."""

    def __init__(self, edit):
        super().__init__((16, 16))
        self.known = [(np.asarray(each.draw(), float), truth(each)) for each in (edit.before, edit.after)]

    def see(self, pictures):
        seen = ((pictures + 1) * 127.5).permute(0, 2, 3, 1).numpy()
        return [min(self.known, key=lambda one: np.abs(one[0] - each).mean())[1] for each in seen]


@pytest.fixture
def small(monkeypatch):
    """Two seeds, one strength, one guidance; a judge and a CLIP that need no weights."""
    monkeypatch.setattr(bench, "SEEDS", 2)
    monkeypatch.setattr(bench, "CURVE_SEEDS", 1)
    monkeypatch.setattr(bench, "STRENGTHS", (0.5,))
    monkeypatch.setattr(bench, "GUIDANCES", (1.0,))
    monkeypatch.setattr(bench, "load", lambda: Knowing(pair(0)))
    monkeypatch.setattr(bench, "ClipScore", lambda folder: lambda images, text: [float(len(text))] * len(images))


def at(model: Path, folder: Path, notes: list | None = None) -> Bench:
    tell = (lambda event: notes.append(event.text)) if notes is not None else (lambda event: None)
    return Bench(folder, ModelFlags(str(model)), SMALL, False, How(device="cpu", batch_size=8), tell)


def test_a_pair_changes_one_visible_thing_and_says_so() -> None:
    pairs = [pair(number) for number in range(60)]
    assert {edit.field for edit in pairs} == set(FIELDS)
    for edit in pairs:
        changed = {name for name, value in vars(edit.before).items() if getattr(edit.after, name) != value}
        assert changed == {edit.field}
        assert edit.field != "colour" or not hides_colour(edit.before)
        assert (edit.source, edit.text) == (edit.before.edit_text(edit.field), edit.after.edit_text(edit.field))
    assert pair(7) == pairs[7]
    whole = pair(7, full=True)
    assert (whole.before, whole.after) == (pairs[7].before, pairs[7].after)
    assert (whole.source, whole.text) == (whole.before.caption(), whole.after.caption())


def test_trivial_editors_are_worth_what_they_are() -> None:
    edit = pair(0)
    panel = Panel(Knowing(edit), lambda images, text: [1.0] * len(images))
    unchanged, blurred, _half = panel.scores(edit, list(trivial(edit)))
    assert not unchanged.success and not unchanged.changed
    assert unchanged.kept_psnr == 99.0
    assert unchanged.answer_psnr == pytest.approx(psnr(edit.before.draw(), edit.after.draw()))
    assert blurred.success and 15 < blurred.answer_psnr < 40
    (answer,) = panel.scores(edit, [Try("answer", 0, 0, edit.after.draw())])
    assert answer.success and answer.answer_psnr == answer.kept_psnr == 99.0 and answer.answer_ssim == pytest.approx(1)


def test_every_method_is_tried_and_judged_and_nothing_is_done_twice(models: Path, tmp_path: Path, small: None) -> None:
    notes: list[str] = []
    run = at(models / "sdv", tmp_path / "out", notes)
    run.run([0])
    (scores,) = read(tmp_path / "out").values()
    tries = {(score.method, score.setting, score.seed) for score in scores}
    grid = {(eta, seed) for eta in (0.6, 0.7, 0.8) for seed in range(2)}
    assert tries == {
        *(("imagic", tenths / 10, 0) for tenths in range(11)),
        *(("imagic", eta, seed) for eta, seed in grid),
        *(("B off", eta, seed) for eta, seed in grid),
        *(("A off", 1.0, seed) for seed in range(6)),
        *(("text to image", 1.0, seed) for seed in range(2)),
        *(("SDEdit", 0.5, seed) for seed in range(2)),
        ("DDIB", 1.0, 0),
        ("input unchanged", 0.0, 0),
        ("answer blurred", 0.0, 0),
        ("half and half", 0.0, 0),
    }
    left = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert left == ["pair-0000.json", "pair-0000.png", "settings.json"]
    with Image.open(tmp_path / "out" / "pair-0000.png") as strip:
        assert strip.size == ((2 + 9) * 130, 128)
        tiles = [strip.crop((i * 130, 0, i * 130 + 128, 128)) for i in range(11)]
    # All but the three trivial editors, side by side.
    found = [contains(gallery(tmp_path / "out"), tile) for tile in (*tiles[:2], *tiles[5:])]
    assert len({y for y, _x in found}) == 1 and found == sorted(found)
    assert pair(0).text in notes[0] and "1 of 1" in notes[0]
    before = (tmp_path / "out" / "pair-0000.json").read_bytes()
    run.run([0])
    assert len(notes) == 1 and (tmp_path / "out" / "pair-0000.json").read_bytes() == before
    # Figures of one folder are averaged: what was made otherwise has no place in it.
    for other in (replace(run, full=True), replace(run, recipe=replace(SMALL, generate={"steps": 3}))):
        with pytest.raises(InputError, match="other settings"):
            other.run([0, 1])


def test_a_stopped_pair_goes_on_where_it_was(models: Path, tmp_path: Path, small: None, monkeypatch) -> None:
    real = silent.finetune

    def stopped(*arguments: object) -> None:
        raise Interrupted(signal.SIGINT, "the stage's own hint")

    monkeypatch.setattr(silent, "finetune", stopped)
    with pytest.raises(Interrupted, match="the same command continues") as error:
        at(models / "sdv", tmp_path).run([0])
    assert error.value.code == 130
    done = (tmp_path / "work-0000" / "full" / "embeddings.safetensors").stat().st_mtime_ns
    looked = []

    def working(run, *arguments):
        looked.append((run.path / "embeddings.safetensors").stat().st_mtime_ns)
        real(run, *arguments)

    monkeypatch.setattr(silent, "finetune", working)
    at(models / "sdv", tmp_path).run([0])
    assert looked[0] == done
    assert (tmp_path / "pair-0000.json").exists() and not (tmp_path / "work-0000").exists()


SCORE = Score("imagic", 0.7, 0, True, True, 20.0, 0.9, 25.0, 30.0)


def made(method: str, setting: float, *worths: tuple[bool, float, float]) -> list[Score]:
    """Tries of (success, kept dB, CLIP score)."""
    return [
        replace(SCORE, method=method, setting=setting, seed=seed, success=success, kept_psnr=kept, clip=clip)
        for seed, (success, kept, clip) in enumerate(worths)
    ]


def test_a_row_counts_each_picker_and_each_floor_for_itself() -> None:
    first = made("DDIB", 1.0, (False, 30.0, 9.0), (True, 19.0, 5.0))
    second = made("DDIB", 1.0, (True, 17.0, 9.0), (False, 30.0, 5.0))
    (row,) = rows({"a": first, "b": second})
    assert (row.method, row.tries) == ("DDIB", 2)
    assert (row.best.mean, row.one.mean, row.clip.mean) == (1.0, 0.5, 0.5)
    assert [row.floors[floor].mean for floor in (16.0, 18.0, 20.0)] == [1.0, 0.5, 0.0]
    assert row.kept_psnr.mean == 18.0
    assert len(list(cells(row))) == len(HEAD)


def test_settings_are_pooled_and_sdedits_are_its_best() -> None:
    scores = [each for eta in (0.0, 0.6, 0.7, 0.8) for each in made("imagic", eta, (eta == 0.7, 20.0, 1.0))]
    for strength in (0.4, 0.5, 0.6, 0.7, 0.8):
        scores += made("SDEdit", strength, (strength > 0.55, 20.0, 1.0))
    found = {row.method: row for row in rows({"a": scores, "b": scores})}
    pooled = found["imagic, 3 settings"]
    assert pooled.tries == 3 and pooled.best.mean == pooled.one.mean == 1.0
    assert found["SDEdit, 3 settings"].tries == 3 and found["SDEdit, 3 settings"].best.mean == 1.0
    assert found["imagic 0"].best.mean == 0.0 and "SDEdit 0.4" in found


def test_a_lead_is_counted_pair_by_pair() -> None:
    won = made("imagic", 0.7, (True, 19.0, 1.0)) + made("SDEdit", 0.5, (False, 30.0, 1.0))
    drawn = made("imagic", 0.7, (True, 30.0, 1.0)) + made("SDEdit", 0.5, (True, math.nan, 1.0))
    found = leads({"a": won, "b": drawn, "c": drawn, "d": drawn})
    assert found.keys() == {"SDEdit"}
    # Best of all, then at 16, 18, 20 and 22 dB.
    assert [each.mean for each in found["SDEdit"]] == [25.0, 25.0, 25.0, 0.0, 0.0]
    assert found["SDEdit"][0].low == 0.0 and found["SDEdit"][0].high > 25.0
    assert "| SDEdit | +25 [" in markdown({"a": won, "b": drawn, "c": drawn, "d": drawn})


def test_kinds_of_edits_are_told_apart() -> None:
    won = made("imagic", 0.7, (True, 19.0, 1.0)) + made("DDIB", 1.0, (False, 30.0, 1.0))
    lost = made("imagic", 0.7, (False, 19.0, 1.0)) + made("DDIB", 1.0, (True, 30.0, 1.0))
    lines = by_field({"a": won, "b": lost, "c": won}, {"a": "pose", "b": "setting", "c": "pose"}).splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| pose, 2 pairs", "imagic", "100 [100, 100]"],
        ["| pose, 2 pairs", "DDIB", "0 [0, 0]"],
        ["| setting, 1 pair", "imagic", "0"],
        ["| setting, 1 pair", "DDIB", "100"],
    ]
    # At 16, 18, 20 and 22 dB.
    assert [share.split(" ")[0] for share in lines[2].split(" | ")[3:]] == ["100", "100", "0", "0"]


def scored() -> list[Score]:
    scores = []
    for tenths in range(11):
        scores += made("imagic", tenths / 10, (tenths > 5, 30.0 - tenths, 1.0), (False, 30.0 - tenths, 2.0))
    return scores + made("SDEdit", 0.5, (True, 12.0, 3.0))


def test_the_table_leaves_out_the_etas_that_are_for_the_curve_alone() -> None:
    found = {row.method for row in rows({"a": scored()})}
    assert {name for name in found if name.startswith("imagic")} == {
        "imagic, 3 settings",
        *(f"imagic {eta}" for eta in ("0", "0.6", "0.7", "0.8")),
    }


def test_the_curve_has_a_mean_at_every_eta_and_methods_are_compared_by_single_tries(monkeypatch) -> None:
    drawn = {}
    monkeypatch.setattr(bench_summary, "band", lambda points, *names: drawn.update(points) or "")
    monkeypatch.setattr(bench_summary, "matched", lambda lines, *names: drawn.update(lines) or "")
    pairs = {"a": scored(), "b": scored()}
    curve(pairs)
    trade(pairs)
    assert [each.mean for each in drawn[bench_summary.KEPT].values()] == [30.0 - tenths for tenths in range(11)]
    assert {each.mean for each in drawn[bench_summary.ALIGNED].values()} == {1.5}
    kept, right = drawn["imagic"]["0.7"]
    assert (kept.mean, right.mean, right.count) == (23.0, 50.0, 2)
    kept, right = drawn["SDEdit"]["0.5"]
    assert (kept.mean, right.mean) == (12.0, 100.0)


def test_the_plots_are_drawn_also_where_an_edit_changes_every_pixel() -> None:
    whole = [replace(score, kept_psnr=math.nan) for score in scored()]
    assert math.isnan(rows({"a": whole})[0].kept_psnr.mean)
    assert rows({"a": whole, "b": scored()})[-1].kept_psnr.mean == 12.0
    for pairs in ({"a": whole}, {"a": whole, "b": scored()}):
        assert "<svg" in curve(pairs) and "<svg" in trade(pairs)
    pairs = {"a": scored(), "b": scored()}
    for plot in (curve(pairs), trade(pairs)):
        assert plot.startswith("<?xml") and bench_summary.KEPT in plot
    assert "SDEdit" in trade(pairs)


def test_the_table_names_its_pairs_and_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no benchmark results"):
        read(tmp_path)
    told = {
        "text": "a bird",
        "field": "pose",
        "scores": [vars(each) for each in made("imagic", 0.7, (True, 20.0, 1.0))],
    }
    (tmp_path / "pair-0003.json").write_text(json.dumps(told))
    text = markdown(read(tmp_path))
    assert read_fields(tmp_path) == {"pair-0003": "pose"}
    assert text.startswith("1 pair.") and "| imagic | 1 | 100 |" in text


def test_the_judge_is_asked_in_its_own_range() -> None:
    class Asked(Judge):
        def see(self, pictures):
            assert (float(pictures.min()), float(pictures.max())) == (-1.0, 1.0)
            assert pictures.shape == (1, 3, 128, 128)
            return [truth(pair(0).after)]

    edit = pair(0)
    black_and_white = Image.new("RGB", (128, 128))
    black_and_white.putpixel((0, 0), (255, 255, 255))
    panel = Panel(Asked((16, 16)), lambda images, text: [0.0] * len(images))
    (score,) = panel.scores(edit, [Try("any", 0, 0, black_and_white)])
    assert score.success and torch.isfinite(torch.tensor(score.answer_ssim))
