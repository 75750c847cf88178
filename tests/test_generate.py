"""Stage C through the real command: sweeps, exactness, variants, and what goes with the images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from drive import done, imagic
from PIL import Image

from imagic_cli import png
from imagic_cli.artifacts import Samples, Weights
from imagic_cli.backends.schedulers import sampler
from imagic_cli.errors import UsageError
from imagic_cli.stages import checkpoints, generate
from imagic_cli.sweep import parse_etas, parse_seeds

TEXT = "a bird spreading wings"


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("tuned")
    toys.picture(48).save(folder / "bird.png")
    run = folder / "run"
    done("optimize", folder / "bird.png", TEXT, "--model", models / "sd", "--run", run, "--steps", 5)
    done("finetune", "--run", run, "--steps", 5, "--lr", "1e-3")
    return run


@pytest.fixture
def run(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "run"))


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=int)


@pytest.mark.parametrize(
    ("text", "etas"),
    [
        ("0.7", ["0.700"]),
        ("0.6:0.8:0.05", ["0.600", "0.650", "0.700", "0.750", "0.800"]),
        ("0:1:0.1", [f"{n / 10:.3f}" for n in range(11)]),
        ("0.5,0.7", ["0.500", "0.700"]),
        ("0.7,0.70,0.6:0.8:0.1", ["0.700", "0.600", "0.800"]),
        ("-0.2", ["-0.200"]),
        ("-0", ["0.000"]),
        ("1.08", ["1.080"]),
        ("0.61255", ["0.61255"]),
        ("1e-1", ["0.100"]),
        ("0.6:0.79:0.1", ["0.600", "0.700"]),
    ],
)
def test_etas_are_exact_decimals(text: str, etas: list[str]) -> None:
    assert parse_etas(text) == etas


@pytest.mark.parametrize(
    "text", ["", "a", "0.6:0.8", "0.6:0.8:0", "0.8:0.6:0.1", "nan", "inf", "0:1:1e-9", "1e9", "1::2"]
)
def test_an_eta_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--eta"):
        parse_etas(text)


def test_seeds_are_counted_from_the_first() -> None:
    assert parse_seeds(3, 4) == [3, 4, 5, 6]
    with pytest.raises(UsageError):
        parse_seeds(0, 0)
    with pytest.raises(UsageError):
        parse_seeds(-1, 2)


def test_a_sweep_gives_every_image_and_one_sheet_and_trains_nothing(run: Path) -> None:
    weights = (run / "weights.safetensors").read_bytes()
    out = done("generate", "--run", run, "--eta", "0.6:0.8:0.05", "--seeds", 8, "--steps", 4, "--batch-size", 8).lines
    folder = run / "variants/steps-4"
    names = [f"eta-{eta}_seed-{seed:04d}.png" for eta in parse_etas("0.6:0.8:0.05") for seed in range(8)]
    assert [Path(line).name for line in out] == [*names, "sheet.png"]
    assert sorted(path.name for path in (folder / "images").glob("eta-*.png")) == sorted(names)
    width, height = Image.open(folder / "images/sheet.png").size
    assert width > 5 * 32
    assert height > 8 * 32
    assert (run / "weights.safetensors").read_bytes() == weights
    saved = Samples.load(folder / "samples.safetensors").content
    assert len(saved.clean) == 40
    assert sorted(saved.embeddings) == parse_etas("0.6:0.8:0.05")


def test_an_image_is_the_same_alone_and_in_a_batch(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    done("generate", "--run", run, "--eta", "0.2:0.8:0.2", "--seeds", 2, "--batch-size", 8)
    for eta, seed in (("0.4", 1), ("0.8", 0)):
        name = f"images/eta-{eta}00_seed-000{seed}.png"
        done("generate", "--run", other, "--eta", eta, "--seed", seed)
        assert np.abs(pixels(run / name) - pixels(other / name)).max() <= 1


def test_seed_and_eta_change_the_image(run: Path) -> None:
    done("generate", "--run", run, "--eta", "0,1", "--seeds", 2, "--guidance", 7.5)
    images = [pixels(path).tobytes() for path in sorted((run / "images").glob("eta-*.png"))]
    assert len(set(images)) == 4


def test_what_is_there_is_not_made_again_and_what_is_lost_is_decoded_again(run: Path) -> None:
    done("generate", "--run", run, "--eta", "0.7")
    image = run / "images/eta-0.700_seed-0000.png"
    content, changed = image.read_bytes(), image.stat().st_mtime_ns
    samples = (run / "samples.safetensors").stat().st_mtime_ns
    assert "up to date" in done("generate", "--run", run, "--eta", "0.7").err
    assert image.stat().st_mtime_ns == changed
    image.unlink()
    done("generate", "--run", run, "--eta", "0.7")
    assert image.read_bytes() == content
    assert (run / "samples.safetensors").stat().st_mtime_ns == samples
    done("generate", "--run", run, "--eta", "0.8")
    assert image.read_bytes() == content
    assert set(Samples.load(run / "samples.safetensors").content.clean) == {("0.700", 0), ("0.800", 0)}


def test_eta_zero_is_e_opt_and_its_distance_to_the_input_is_told(run: Path) -> None:
    err = done("generate", "--run", run, "--eta", "0").err
    image, source = pixels(run / "images/eta-0.000_seed-0000.png"), pixels(run / "image.png")
    expected = 10 * np.log10(255**2 / np.mean((image - source) ** 2.0))
    assert f"{expected:.2f} dB to the input" in err


def test_another_way_of_sampling_has_its_own_folder(run: Path) -> None:
    done("generate", "--run", run)
    usual = (run / "images/eta-0.700_seed-0000.png").read_bytes()
    ways = {
        "steps-5": ["--steps", 5],
        "scheduler-euler-a": ["--scheduler", "euler-a"],
        "scheduler-dpmpp": ["--scheduler", "dpm++"],
        "guidance-1.0": ["--guidance", 1],
        "pretrained": ["--pretrained"],
    }
    for folder, flags in ways.items():
        done("generate", "--run", run, *flags)
        assert (run / "variants" / folder / "images/eta-0.700_seed-0000.png").read_bytes() != usual
    assert sorted(path.name for path in (run / "variants").iterdir()) == sorted(ways)
    assert (run / "images/eta-0.700_seed-0000.png").read_bytes() == usual
    assert imagic("check", run).code == 0


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "euler", "euler-a", "dpm++", "heun", "pndm", "unipc"])
def test_every_scheduler_samples_and_is_seeded(run: Path, scheduler: str) -> None:
    done("generate", "--run", run, "--scheduler", scheduler, "--steps", 3)
    (image,) = (run / "variants").glob("*/images/eta-*.png")
    content = image.read_bytes()
    done("generate", "--run", run, "--scheduler", scheduler, "--steps", 3, "--force")
    assert image.read_bytes() == content


def test_another_text_on_the_same_run_is_encoded_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("generate", "--run", run, "--prompt", "a sleeping bird", "--negative", "blur")
    assert len(list((run / "texts").iterdir())) == 2

    def refuse(*_arguments: object) -> None:
        pytest.fail("the text encoder was loaded again")

    monkeypatch.setattr("imagic_cli.backends.stable_diffusion.StableDiffusion.text_components", refuse)
    done("generate", "--run", run, "--prompt", "a sleeping bird", "--negative", "blur", "--eta", "0.5")
    done("generate", "--run", run, "--prompt", TEXT)
    assert (run / "images/eta-0.700_seed-0000.png").exists()


def test_without_a_delta_the_pretrained_model_is_used_and_said(run: Path) -> None:
    done("generate", "--run", run, "--pretrained")
    pretrained = (run / "variants/pretrained/images/eta-0.700_seed-0000.png").read_bytes()
    shutil.rmtree(run / "variants")
    (run / "weights.safetensors").unlink()
    assert "pretrained model" in done("generate", "--run", run).err
    assert (run / "variants/pretrained/images/eta-0.700_seed-0000.png").read_bytes() == pretrained


def test_the_stored_delta_gives_the_images_of_fp32(run: Path, tmp_path: Path) -> None:
    exact = Path(shutil.copytree(run, tmp_path / "exact"))
    done("finetune", "--run", exact, "--delta-dtype", "fp32", "--force")
    assert Weights.load(run / "weights.safetensors").content.deltas["base/conv_in.weight"].dtype == torch.float16
    for folder in (run, exact):
        done("generate", "--run", folder, "--eta", "0:1:0.5")
    for eta in ("0.000", "0.500", "1.000"):
        name = f"images/eta-{eta}_seed-0000.png"
        assert np.abs(pixels(run / name) - pixels(exact / name)).max() <= 1


def test_an_image_says_how_it_was_made(run: Path) -> None:
    done("generate", "--run", run, "--seed", 3, "--negative", "blur")
    (path,) = (run / "variants").glob("*/images/eta-*.png")
    texts = Image.open(path).text
    record = json.loads(texts["imagic"])
    expected = {"model": "sd", "prompt": TEXT, "eta": "0.700", "seed": 3, "negative": "blur"}
    expected |= {"scheduler": "ddim", "steps": 50, "guidance": 7.5}
    assert expected.items() <= record.items()
    assert texts["parameters"].splitlines()[0] == TEXT
    assert "Steps: 50" in texts["parameters"]
    assert json.loads(path.with_suffix(".json").read_text()).items() >= record.items()


def test_output_copies_the_one_image(run: Path) -> None:
    done("generate", "--run", run, "-o", "out.png")
    assert Path("out.png").read_bytes() == (run / "images/eta-0.700_seed-0000.png").read_bytes()


def test_output_replaces_an_earlier_picture_and_no_other_file(run: Path) -> None:
    done("generate", "--run", run, "-o", "out.png")
    done("generate", "--run", run, "-o", "out.png", "--seed", 1)
    copied = Path("out.png").read_bytes()
    assert copied == (run / "images/eta-0.700_seed-0001.png").read_bytes()
    Image.new("RGB", (8, 8)).save("mine.png")
    before = Path("mine.png").read_bytes()
    refused = imagic("generate", "--run", run, "-o", "mine.png", "--seed", 2)
    assert (refused.code, Path("mine.png").read_bytes()) == (2, before)
    assert not (run / "images/eta-0.700_seed-0002.png").exists()
    done("generate", "--run", run, "-o", "mine.png", "--force", "--seed", 2)
    assert Path("mine.png").read_bytes() == (run / "images/eta-0.700_seed-0002.png").read_bytes()


def test_output_never_replaces_the_photograph(run: Path) -> None:
    toys.picture(48).save("bird.png")
    png.save(Path("drawn.png"), toys.picture(48), "", {"scene": "a bird"})
    for place, flags, told in (
        ("bird.png", ["--force"], "the photograph"),
        ("drawn.png", [], "another file"),
        ("drawn.png", ["--force"], "the photograph"),
    ):
        before = Path(place).read_bytes()
        refused = imagic("generate", "--run", run, "-o", place, *flags)
        assert (refused.code, f"{place} is {told}" in refused.err) == (2, True), refused.err
        assert Path(place).read_bytes() == before


def test_json_lines_tell_all_on_stdout(run: Path) -> None:
    lines = [json.loads(line) for line in done("generate", "--run", run, "--seeds", 2, "--json").lines]
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "started"
    assert kinds.count("pictured") == 2
    assert [line for line in lines if line["event"] == "result"][-1]["sheet"].endswith("sheet.png")


def test_quiet_leaves_only_the_results(run: Path) -> None:
    result = done("generate", "--run", run, "--quiet")
    assert result.err == ""
    assert result.lines == [str(run / "images/eta-0.700_seed-0000.png")]


@pytest.mark.parametrize("flagged", [False, True])
def test_the_safety_checker_runs_and_is_never_silent(photo: Path, models: Path, flagged: bool) -> None:
    toys.add_safety_checker(Path(shutil.copytree(models / "sd", "model")), flagged)
    done("optimize", photo, TEXT, "--model", "model", "--run", "run", "--steps", 2)
    result = done("generate", "--run", "run", "--steps", 2, "--quiet")
    (path,) = Path("run").rglob("eta-*.png")
    assert json.loads(path.with_suffix(".json").read_text())["flagged"] is flagged
    assert ("safety checker withheld" in result.err) is flagged
    assert bool(pixels(path).max() == 0) is flagged
    assert ("safety checker withheld" in done("generate", "--run", "run", "--steps", 2, "--quiet").err) is flagged
    # It judges; it has no part in what is made.
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "plain", "--steps", 2)
    assert Path("plain/embeddings.safetensors").read_bytes() == Path("run/embeddings.safetensors").read_bytes()


def test_images_of_another_environment_are_not_added_in_silence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("generate", "--run", run)
    real = generate.environment
    monkeypatch.setattr(checkpoints, "environment", lambda device: real(device) | {"threads": "64"})
    more = ["generate", "--run", run, "--seed", 1]
    refused = imagic(*more, "--strict")
    told = "samples.safetensors began elsewhere (threads 1 -> 64)"
    assert (refused.code, told in refused.err) == (4, True), refused.err
    assert f"warning: {told}" in done(*more).err
    assert "began elsewhere" not in done(*more, "--strict").err


def test_force_makes_again_what_is_asked_for_and_keeps_the_rest(run: Path) -> None:
    done("generate", "--run", run, "--eta", "0.5,0.7", "--steps", 4)
    folder = run / "variants/steps-4"
    before = {path.name: path.read_bytes() for path in (folder / "images").glob("eta-*.png")}
    samples = (folder / "samples.safetensors").read_bytes()
    (folder / "images/eta-0.700_seed-0000.png").write_bytes(b"")
    done("generate", "--run", run, "--eta", "0.7", "--steps", 4, "--force")
    assert {path.name: path.read_bytes() for path in (folder / "images").glob("eta-*.png")} == before
    assert (folder / "samples.safetensors").read_bytes() == samples


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_latents_are_never_clipped(models: Path, scheduler: str) -> None:
    # SDXL's config is written for Euler and does not say it; diffusers' default for these two is to clip.
    config = json.loads((models / "sdxl/scheduler/scheduler_config.json").read_text())
    for name in ("clip_sample", "set_alpha_to_one"):
        config.pop(name)
    made = sampler(scheduler, config)
    assert made.config.clip_sample is False
    assert made.config.get("set_alpha_to_one", False) is False


@pytest.mark.parametrize("wrong", [{"prediction_type": "flow_prediction"}, {"_class_name": "EDMEulerScheduler"}])
def test_a_model_that_predicts_something_else_is_refused(photo: Path, models: Path, wrong: dict[str, str]) -> None:
    path = Path(shutil.copytree(models / "sd", "model")) / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    result = imagic("optimize", photo, TEXT, "--model", "model", "--run", "run", "--steps", 1)
    assert result.code == 9
    assert "predicts" in result.err
