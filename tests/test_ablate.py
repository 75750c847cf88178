"""`imagic ablate`: one figure for each of the paper's ablations, made of images that the stages made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toys
from drive import done, imagic
from pictures import contains
from PIL import Image

from imagic_cli.artifacts import Embeddings
from imagic_cli.evaluation.fidelity import psnr
from imagic_cli.evaluation.table import load
from imagic_cli.record import read_record

TEXT = "a bird spreading wings"
UPPER = "weights-sr16-32.safetensors"


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    toys.picture(48).save(folder / "bird.png")
    run = ["--run", folder / "run"]
    steps = ["--optimize-steps", 3, "--finetune-steps", 3, "--steps", 2]
    done("edit", folder / "bird.png", TEXT, "--model", models / "sd", *steps, *run)
    return folder / "run"


def test_the_pretrained_row_stands_above_the_tuned_one(tuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    told = done("ablate", "finetune", run, "--eta", "0,1", "--seed", 3)
    assert [Path(line).relative_to(run).as_posix() for line in told.lines] == ["ablations/finetune.png"]
    upper = run / "variants" / "pretrained" / "images" / "eta-0.000_seed-0003.png"
    lower = run / "images" / "eta-0.000_seed-0003.png"
    assert row(Path(told.lines[0]), upper) < row(Path(told.lines[0]), lower)
    assert imagic("check", run).code == 0
    before = (run / "samples.safetensors").stat().st_mtime_ns
    done("ablate", "finetune", run, "--eta", "0,1", "--seed", 3)
    assert (run / "samples.safetensors").stat().st_mtime_ns == before


def test_every_length_is_a_run_of_its_own_and_none_is_made_twice(tuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    command = ["ablate", "optimize", run, "--steps", "4,0", "--eta", "0.7"]
    told = done(*command)
    assert Path(told.lines[0]).name == "optimize.png"
    parts = [run / "ablations" / f"optimize-0000{count}" for count in (0, 4)]
    for part in parts:
        assert imagic("check", part).code == 0
        assert row(Path(told.lines[0]), part / "images" / "eta-0.700_seed-0000.png") >= 0
    found = [Embeddings.load(part / "embeddings.safetensors").content for part in parts]
    assert found[0].optimized.tokens.equal(found[0].target.tokens)
    assert not found[1].optimized.tokens.equal(found[1].target.tokens)
    before = [(part / "weights.safetensors").stat().st_mtime_ns for part in parts]
    done(*command)
    assert before == [(part / "weights.safetensors").stat().st_mtime_ns for part in parts]
    assert imagic("check", run).code == 0


def test_a_length_of_another_stage_b_is_not_shown_as_this_one(tuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    command = ["ablate", "optimize", run, "--steps", "1", "--eta", "0.7"]
    done(*command)
    done("finetune", "--run", run, "--steps", 2, "--force")
    part = run / "ablations" / "optimize-00001"
    result = imagic(*command)
    assert (result.code, f"(steps 3 -> 2); remove {part}," in result.err) == (4, True), result.err
    shutil.rmtree(part)
    done(*command)
    assert read_record(part / "run.json").finetune.steps == 2


def test_super_resolution_is_shown_pretrained_and_tuned_at_either_embedding(models: Path, tmp_path: Path) -> None:
    toys.picture(48).save(tmp_path / "bird.png")
    run = tmp_path / "run"
    done("optimize", tmp_path / "bird.png", TEXT, "--model", models / "cascade", "--steps", 2, "--run", run)
    done("finetune", "--run", run, "--steps", 2, "--lr", "1e-4")
    command = ["ablate", "super-resolution", run, "--eta", "0,1"]
    told = done(*command)
    parts = [run / "ablations" / f"super-resolution-{name}" for name in ("pretrained", "target", "optimized")]
    figure, *tables = map(Path, told.lines)
    assert figure == run / "ablations" / "super-resolution.png"
    assert tables == [part.with_suffix(".csv") for part in parts]
    rows = [row(figure, shown(part)) for part in parts]
    assert 0 < rows[0] < rows[1] < rows[2]
    for part, table in zip(parts, tables, strict=True):
        assert imagic("check", part).code == 0
        found, photo = load(table), Image.open(run / "image.png")
        assert found.rows["1.000", 0]["psnr_db"] == pytest.approx(psnr(Image.open(shown(part)), photo), abs=1e-4)
    assert [(part / UPPER).exists() for part in parts] == [False, True, True]
    # Tuned at e_tgt as the run itself was, and at e_opt otherwise.
    assert (parts[1] / UPPER).read_bytes() == (run / UPPER).read_bytes() != (parts[2] / UPPER).read_bytes()
    before = [(part / UPPER).stat().st_mtime_ns for part in parts[1:]]
    done(*command)
    assert before == [(part / UPPER).stat().st_mtime_ns for part in parts[1:]]
    assert imagic("check", run).code == 0


def test_a_model_without_super_resolution_is_refused(tuned: Path) -> None:
    result = imagic("ablate", "super-resolution", tuned)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("imagic: sd has no super-resolution to ablate")


def shown(part: Path) -> Path:
    (found,) = part.glob("variants/*/images/eta-1.000_seed-0000.png")
    return found


def row(sheet: Path, picture: Path) -> int:
    with Image.open(picture) as image:
        # A sheet shows each pixel of such small pictures as a square.
        factor = -(-96 // max(image.size))
        seen = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    return contains(Image.open(sheet), seen)[0]
