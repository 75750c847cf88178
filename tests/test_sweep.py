"""`imagic sweep`: the grid, its figures, the plot and the suggestion."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import toys
from drive import done, imagic
from PIL import Image

from imagic_cli.errors import UsageError
from imagic_cli.evaluation import fidelity, scoring
from imagic_cli.evaluation.fidelity import measures, ms_ssim, psnr, ssim
from imagic_cli.evaluation.plots import losses, tradeoff
from imagic_cli.evaluation.scoring import Table, suggested
from imagic_cli.sweep import parse_seed_range

TEXT = "a bird spreading wings"


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    toys.picture(48).save(folder / "bird.png")
    done("optimize", folder / "bird.png", TEXT, "--model", models / "sd", "--run", folder / "run", "--steps", 2)
    done("finetune", "--run", folder / "run", "--steps", 2)
    return folder / "run"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.clip(tmp_path_factory.mktemp("clip"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_fills_the_grid_and_measures_every_image(tuned: Path, clip: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    flags = ["--eta", "0:1:0.5", "--seed", "2:4", "--steps", 2, "--clip", clip]
    told = done("sweep", run, *flags)
    assert [Path(line).name for line in told.lines] == ["metrics.csv", "tradeoff.svg", "sheet.png"]
    folder = Path(told.lines[0]).parent
    rows = table(folder / "metrics.csv")
    assert [(row["eta"], row["seed"]) for row in rows] == [
        (eta, seed) for eta in ("0.000", "0.500", "1.000") for seed in ("2", "3")
    ]
    source = Image.open(run / "image.png")
    for row in rows:
        image = Image.open(folder / f"eta-{row['eta']}_seed-000{row['seed']}.png")
        assert float(row["psnr_db"]) == pytest.approx(psnr(image, source), rel=1e-5)
        assert float(row["ssim"]) == pytest.approx(ssim(image, source), rel=1e-5)
        assert 0 <= float(row[f"clip_score[{clip}]"]) <= 100
    assert "look first at eta" in told.err and "figures cannot choose" in told.err
    before = (folder / "metrics.csv").read_bytes(), (folder / "tradeoff.svg").read_bytes()
    again = done("sweep", run, *flags)
    assert "up to date" in again.err
    assert done("sweep", run, *flags, "--quiet").err == ""
    notes = [json.loads(line) for line in done("sweep", run, *flags, "--json").lines]
    assert any(note["event"] == "note" and "look first at eta" in note["text"] for note in notes)
    assert before == ((folder / "metrics.csv").read_bytes(), (folder / "tradeoff.svg").read_bytes())
    assert imagic("check", run).code == 0
    # Another call fills more of the grid; a picture that has gone has no row.
    done("sweep", run, "--eta", "0.7", "--seed", "2", "--steps", 2, "--clip", clip)
    assert [row["eta"] for row in table(folder / "metrics.csv")] == ["0.000"] * 2 + ["0.500"] * 2 + [
        "0.700",
        "1.000",
        "1.000",
    ]
    for suffix in (".png", ".json"):
        (folder / f"eta-0.000_seed-0002{suffix}").unlink()
    done("sweep", run, "--eta", "0.7", "--seed", "2", "--steps", 2, "--clip", clip)
    assert [row["eta"] for row in table(folder / "metrics.csv")] == ["0.000"] + ["0.500"] * 2 + [
        "0.700",
        "1.000",
        "1.000",
    ]


def test_without_a_clip_the_rest_is_measured_and_the_lack_is_told(tuned: Path, tmp_path: Path, monkeypatch) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    monkeypatch.setattr(scoring, "DEFAULT_CLIP", "nobody/no-clip")
    told = done("sweep", run, "--eta", "0,1", "--seed", "0", "--steps", 2)
    assert "warning: no text alignment" in told.err and "--clip" in told.err
    assert "look first" not in told.err
    (first, _second) = table(Path(told.lines[0]))
    assert set(first) == {"eta", "seed", "psnr_db", "ssim"}


def test_a_clip_that_is_named_must_be_there(tuned: Path, tmp_path: Path) -> None:
    result = imagic("sweep", shutil.copytree(tuned, tmp_path / "run"), "--eta", "0", "--clip", tmp_path)
    assert result.code == 9 and "is no CLIP model" in result.err
    assert not (tmp_path / "run" / "samples.safetensors").exists()


def test_ms_ssim_is_measured_where_five_scales_fit(monkeypatch) -> None:
    large = toys.picture(176)
    assert ms_ssim(large, large) == pytest.approx(1.0)
    found = measures(large, Image.new("RGB", large.size, "grey"))
    assert set(found) == {"psnr_db", "ssim", "ms_ssim"} and found["ms_ssim"] < 0.9
    with pytest.raises(ValueError, match="above 160"):
        ms_ssim(toys.picture(160), toys.picture(160))
    monkeypatch.setattr(fidelity, "_lpips", lambda: lambda a, b: (a - b).abs().mean())
    assert measures(large, large)["1-lpips[alex]"] == 1.0


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("0:8", list(range(8))), ("5:7", [5, 6])])
def test_seed_ranges_leave_their_end_out(text: str, seeds: list[int]) -> None:
    assert parse_seed_range(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1:", ":3", "3:3", "5:2", "-1", "0:8:2", "1.5"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--seed"):
        parse_seed_range(text)


def sloped(*rows: tuple[str, float, float]) -> Table:
    return Table(
        {(eta, 0): {"clip_score[x]": aligned, "ssim": kept} for eta, aligned, kept in rows}, "clip_score[x]", "ssim"
    )


def test_the_suggestion_keeps_most_of_both() -> None:
    found = sloped(("0.000", 20, 1.0), ("0.500", 21, 0.9), ("0.700", 27, 0.8), ("0.800", 28, 0.7), ("1.000", 30, 0.1))
    assert suggested(found, 2) == ["0.700", "0.800"]
    # Also of few: eta 0 is no edit.
    assert suggested(sloped(("0.000", 20, 1.0), ("0.700", 27, 0.8), ("1.000", 30, 0.1))) == ["0.700", "1.000"]
    assert suggested(Table(found.rows, None, "ssim")) == []
    assert found.mean("ssim") == {"0.000": 1.0, "0.500": 0.9, "0.700": 0.8, "0.800": 0.7, "1.000": 0.1}


def test_plots_are_svg_that_name_what_they_show() -> None:
    drawn = tradeoff(sloped(("0.000", 20, 1.0), ("1.000", 30, 0.1)), "a bird")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert drawn == tradeoff(sloped(("0.000", 20, 1.0), ("1.000", 30, 0.1)), "a bird")
    curves = losses({"loss": [(1, 0.5), (2, 0.1)], "probe": [(1, 0.3)]}, "stage A")
    assert ElementTree.fromstring(curves).tag.endswith("svg")


def test_sdedit_joins_a_run_and_is_not_made_twice(tuned: Path, clip: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    flags = ["--strength", "0.5,1", "--seed", "0:2", "--steps", 4, "--clip", clip]
    told = done("baseline", "sdedit", run, *flags)
    pictures = [Path(line) for line in told.lines[:-1]]
    assert [path.name for path in pictures] == [
        f"strength-{strength}_seed-000{seed}.png" for strength in ("0.500", "1.000") for seed in (0, 1)
    ]
    rows = table(Path(told.lines[-1]))
    source = Image.open(run / "image.png")
    assert float(rows[0]["psnr_db"]) == pytest.approx(psnr(Image.open(pictures[0]), source), rel=1e-5)
    assert len({path.read_bytes() for path in pictures}) == 4
    times = [path.stat().st_mtime_ns for path in pictures]
    done("baseline", "sdedit", run, *flags)
    assert times == [path.stat().st_mtime_ns for path in pictures]
    assert imagic("check", run).code == 0
    done("baseline", "sdedit", run, "--strength", "0.75", "--seed", "0", "--steps", 4, "--clip", clip)
    assert [row["eta"] for row in table(Path(told.lines[-1]))] == ["0.500", "0.500", "0.750", "1.000", "1.000"]
    # Other settings are other work under the same names: no series with what was there.
    done("baseline", "sdedit", run, "--strength", "0.5", "--seed", "0", "--steps", 8, "--clip", clip)
    assert pictures[0].stat().st_mtime_ns != times[0]
    assert sorted(pictures[0].parent.glob("*.png")) == pictures[:1]
    assert [row["eta"] for row in table(Path(told.lines[-1]))] == ["0.500"]


def test_ddib_needs_no_seed_and_a_source(tuned: Path, clip: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    told = done("baseline", "ddib", run, "--source", "a bird", "--guidance", "1,3", "--steps", 4, "--clip", clip)
    assert [Path(line).name for line in told.lines] == [
        "guidance-1.000_seed-0000.png",
        "guidance-3.000_seed-0000.png",
        "metrics.csv",
    ]
