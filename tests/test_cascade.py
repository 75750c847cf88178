"""A cascade through the real command: its levels, where it stops, what depends on what, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import toys
from drive import digests, done, imagic
from PIL import Image
from refusals import edit_json, optimize, refused

from imagic_cli.artifacts import Embeddings, Weights
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource
from imagic_cli.presets import load_preset

TEXT = "a bird spreading wings"
SR = "sr16-32"
SHORT = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 2]
FILES = {
    "embeddings.safetensors",
    "image.png",
    "images/eta-0.700_seed-0000.json",
    "images/eta-0.700_seed-0000.png",
    f"logs/finetune-{SR}.jsonl",
    "logs/finetune.jsonl",
    "logs/optimize.jsonl",
    "samples.safetensors",
    f"weights-{SR}.safetensors",
    "weights.safetensors",
}


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("tuned")
    toys.picture(48).save(folder / "bird.png")
    done("edit", folder / "bird.png", TEXT, "--model", models / "cascade", "--run", folder / "run", *SHORT)
    return folder / "run"


@pytest.fixture
def run(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "run"))


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A cascade to change."""
    return Path(shutil.copytree(models / "cascade", tmp_path / "model"))


def states(run: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for line in done("status", run, "--json").lines]
    return {each["stage"]: (each["condition"], each["detail"]) for each in lines if each["event"] == "state"}


def suggested(run: Path) -> str:
    return done("status", run).out.splitlines()[-1]


def test_a_run_holds_exactly_these_files(run: Path) -> None:
    assert set(digests(run)) == FILES
    assert imagic("check", run).code == 0
    assert {name: state for name, (state, _detail) in states(run).items()} == dict.fromkeys(
        ("optimize", "finetune", f"finetune-{SR}", "generate"), "done"
    )
    for command in ("finetune", "generate"):
        assert "up to date" in done(command, "--run", run).err
    assert Image.open(run / "image.png").size == (32, 32)
    assert Image.open(run / "images/eta-0.700_seed-0000.png").size == (64, 64)


def test_the_numbers_are_those_for_a_cascade_and_a_dry_run_tells_every_level(photo: Path, models: Path) -> None:
    flags = ["--model", models / "cascade", "--run", "run", "--dry-run", "--json"]
    plan, *costs = [json.loads(line) for line in done("edit", photo, TEXT, *flags).lines]
    record, usual = plan["record"], load_preset("if")
    assert (record["optimize"]["steps"], record["optimize"]["learning_rate"]) == (100, 1e-3)
    assert (record["finetune"]["steps"], record["above"][SR]["steps"]) == (1500, 1500)
    assert record["above"][SR]["learning_rate"] == usual.super_resolution.learning_rate
    assert (record["generate"]["scheduler"], record["generate"]["upscaler"]["noise_level"]) == ("ddpm", 100)
    assert [cost["stage"] for cost in costs] == ["optimize", "finetune", f"finetune-{SR}", "generate"]
    assert all(cost["flop"] > 0 and cost["memory"] > 0 and cost["disk"] > 0 for cost in costs)
    assert "100 steps of base at guidance 7.0 then 50 steps of sr16-32" in costs[-1]["work"]
    assert not Path("run").exists()


def test_each_level_is_a_part_of_its_own(photo: Path, models: Path) -> None:
    done("optimize", photo, TEXT, "--model", models / "cascade", "--run", "run", "--steps", 2)
    done("finetune", "--run", "run", "--level", "base", "--steps", 2)
    assert suggested(Path("run")) == f"next: imagic finetune --level {SR} --run run"
    assert f"{SR} is not fine-tuned" in done("generate", "--run", "run", "--steps", 2).err
    assert SR not in done("generate", "--run", "run", "--steps", 2, "--size", 16).err
    (lower,) = Path("run").glob("weights*")
    base = lower.read_bytes()
    done("finetune", "--run", "run", "--level", SR, "--steps", 2, "--lr", 1e-3)
    assert lower.read_bytes() == base
    # What was sampled without it is stale, what stops below it is not.
    found = states(Path("run"))
    assert found["generate steps-2"] == ("stale", f"weights-{SR} changed")
    assert found["generate steps-2_size-16"][0] == "done"
    assert imagic("generate", "--run", "run", "--steps", 2).code == 4
    done("generate", "--run", "run", "--steps", 2, "--force")
    assert states(Path("run"))["generate steps-2"][0] == "done"
    record = json.loads(Path("run/run.json").read_text())
    assert (record["finetune"]["learning_rate"], record["above"][SR]["learning_rate"]) == (5e-7, 1e-3)


def test_another_stage_a_leaves_super_resolution_alone(photo: Path, models: Path, run: Path) -> None:
    before = (run / f"weights-{SR}.safetensors").read_bytes()
    done("optimize", "--run", run, "--seed", 1, "--force")
    found = {name: state for name, (state, _detail) in states(run).items()}
    assert found == {"optimize": "done", "finetune": "stale", f"finetune-{SR}": "done", "generate": "stale"}
    assert suggested(run) == f"next: imagic finetune --force --run {run}"
    done("finetune", "--run", run, "--level", "base", "--force")
    done("finetune", "--run", run, "--level", SR, "--force")
    assert (run / f"weights-{SR}.safetensors").read_bytes() == before
    done("optimize", photo, "a sleeping bird", "--model", models / "cascade", "--run", run, "--steps", 2, "--force")
    assert "text" in states(run)[f"finetune-{SR}"][1]
    assert imagic("generate", "--run", run).code == 4


def test_super_resolution_can_be_tuned_at_what_stage_a_found(run: Path) -> None:
    base, above = run / "weights.safetensors", run / f"weights-{SR}.safetensors"
    at_target, lower = Weights.load(above).content.deltas, base.read_bytes()
    done("finetune", "--run", run, "--level", SR, "--sr-condition", "optimized", "--force")
    assert states(run)["generate"] == ("stale", f"weights-{SR} changed")
    assert "up to date" in done("finetune", "--run", run).err
    found = Weights.load(above).content.deltas
    assert any(not torch.equal(found[name], delta) for name, delta in at_target.items())
    # Now it depends on stage A, as the base does.
    done("optimize", "--run", run, "--seed", 1, "--force")
    assert states(run)[f"finetune-{SR}"] == ("stale", "embeddings changed")
    done("optimize", "--run", run, "--seed", 0, "--force")
    done("finetune", "--run", run, "--sr-condition", "target", "--force")
    again = Weights.load(above).content.deltas
    assert all(torch.equal(again[name], delta) for name, delta in at_target.items())
    assert base.read_bytes() == lower


def test_a_refused_level_leaves_the_others_as_they_are(run: Path) -> None:
    (run / "weights.safetensors").unlink()
    before = digests(run)
    result = imagic("finetune", "--run", run, "--steps", 3)
    assert (result.code, f"weights-{SR}.safetensors" in result.err, "steps 2 -> 3" in result.err) == (4, True, True)
    assert digests(run) == before


def test_no_text_encoder_is_loaded_after_stage_a(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        pytest.fail("a text encoder was loaded")

    for module in ("deepfloyd_if", "upscaler"):
        monkeypatch.setattr(f"imagic_cli.backends.{module}.load_encoder", refuse)
    done("finetune", "--run", run, "--force")
    done("generate", "--run", run, "--eta", "0.6", "--force")


def test_another_text_reaches_every_level_and_is_encoded_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("generate", "--run", run, "--prompt", "a sleeping bird", "--negative", "blur")
    assert len(list((run / "texts").iterdir())) == 2
    monkeypatch.setattr("imagic_cli.backends.deepfloyd_if.load_encoder", lambda *_: pytest.fail("loaded again"))
    done("generate", "--run", run, "--prompt", "a sleeping bird", "--negative", "blur", "--eta", 0.5)
    assert imagic("check", run).code == 0
    assert len(done("clean", run).lines) == 2


def test_eta_zero_is_compared_at_every_size(run: Path) -> None:
    for size in (16, 32, 64):
        assert "dB to the input" in done("generate", "--run", run, "--eta", 0, "--size", size).err
    sizes = [Image.open(path).size[0] for path in sorted(run.rglob("eta-0.000*.png"))]
    assert sorted(sizes) == [16, 32, 64]
    # The end of the cascade has one name.
    assert sorted(path.name for path in (run / "variants").iterdir()) == ["size-16", "size-32"]
    assert json.loads((run / "variants/size-16/images/eta-0.000_seed-0000.json").read_text())["size"] == 16


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
def test_every_scheduler_that_thresholds_samples_and_is_seeded(run: Path, scheduler: str) -> None:
    flags = ["--run", run, "--scheduler", scheduler, "--steps", 3]
    done("generate", *flags)
    (image,) = (run / "variants").glob("*/images/eta-*.png")
    content = image.read_bytes()
    done("generate", *flags, "--force")
    assert image.read_bytes() == content
    assert np.asarray(Image.open(image)).std() > 0


@pytest.mark.parametrize(
    ("code", "typed", "part"),
    [
        (2, ["generate", "--scheduler", "euler"], "--scheduler euler does not drive"),
        (2, ["generate", "--steps", 1001], "--steps 1001 is more than the model's 1000"),
        (2, ["generate", "--size", 48], "there are: 16, 32, 64"),
        (2, ["generate", "--size", 0], "--size 0"),
        (2, ["finetune", "--level", "sr64-256"], f"there are: base, {SR}, all"),
        (4, ["finetune", "--level", SR, "--lr", 1], "learning_rate"),
        (2, ["finetune", "--level", "base", "--sr-condition", "optimized"], "--sr-condition is of what is above"),
        (4, ["finetune", "--level", SR, "--sr-condition", "optimized"], 'condition default -> "optimized"'),
    ],
)
def test_a_bad_invocation(code: int, typed: list[object], part: str, run: Path) -> None:
    before = digests(run)
    result = imagic(*typed, "--run", run)
    assert (result.code, part in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) <= 3
    assert digests(run) == before


def test_a_model_of_one_level_has_no_other_and_no_other_size(photo: Path, models: Path) -> None:
    assert optimize(photo, models / "sd").code == 0
    for command, flag, value in (("finetune", "--level", SR), ("generate", "--size", "32")):
        result = imagic(command, "--run", "run", flag, value)
        assert (result.code, value in result.err) == (2, True)
    assert optimize(photo, models / "cascade/base", run="base").code == 0
    done("finetune", "--run", "base", "--steps", 1)
    done("generate", "--run", "base", "--steps", 2, "--size", 16)
    assert list(states(Path("base"))) == ["optimize", "finetune", "generate", "generate steps-2"]


@pytest.mark.parametrize("flagged", [False, True])
def test_the_makers_checker_and_watermark_are_used_where_they_are(photo: Path, model: Path, flagged: bool) -> None:
    plain = find(ModelSource(source=str(model))).identity()
    toys.add_if_screening(model / "base", flagged)
    # They have no part in what is made.
    assert find(ModelSource(source=str(model))).identity() == plain
    result = done("edit", photo, TEXT, "--model", model, "--run", "run", *SHORT, "--quiet")
    path = Path("run/images/eta-0.700_seed-0000.png")
    assert json.loads(path.with_suffix(".json").read_text())["flagged"] is flagged
    assert ("safety checker withheld" in result.err) is flagged
    pixels = np.asarray(Image.open(path))
    green = (pixels == (0, 255, 0)).all(axis=-1)
    assert (int(pixels.max()) == 0) is flagged
    # 62 pixels of 1024 are 3 of 64, in the corner.
    assert green.sum() == (0 if flagged else 9)
    assert not green[:48].any()


def test_what_the_base_has_is_not_read_again(photo: Path, model: Path) -> None:
    plain = find(ModelSource(source=str(model))).identity()
    above = model / "super-resolution"
    shutil.copytree(model / "base/tokenizer", above / "tokenizer")
    (above / "text_encoder").mkdir()
    (above / "text_encoder/pytorch_model.bin").write_bytes(b"\x80\x04.")
    edit_json(above / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
    edit_json(above / "model_index.json", tokenizer=["transformers", "T5Tokenizer"])
    assert find(ModelSource(source=str(model))).identity() == plain
    assert optimize(photo, model).code == 0


def test_the_text_encoder_is_downloaded_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], list[str]]] = []
    places = {"IF-I": "base", "IF-II": "super-resolution", "stable": "upscaler"}

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str], **_options: object) -> str:
        asked.append((name, allow_patterns, ignore_patterns))
        folder = name.split("/")[1].rsplit("-", 2)[0] if "IF" in name else "stable"
        return str(models / "cascade" / places[folder])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = find(load_preset("if").model)
    assert [each.family for each in (found, *found.above)] == [
        "IFPipeline",
        "IFSuperResolutionPipeline",
        "StableDiffusionUpscalePipeline",
    ]
    whole = {name: ignored for name, allowed, ignored in asked if "*/*.fp16*.safetensors" in allowed}
    assert list(whole) == [
        "DeepFloyd/IF-I-XL-v1.0",
        "DeepFloyd/IF-II-L-v1.0",
        "stabilityai/stable-diffusion-x4-upscaler",
    ]
    assert ["text_encoder/*" in ignored for ignored in whole.values()] == [False, True, False]


def test_the_text_encoders_number_format_is_part_of_the_model(photo: Path, models: Path) -> None:
    for run, flags in (("full", []), ("half", ["--encoder", "bf16"])):
        assert optimize(photo, models / "cascade", *flags, run=run).code == 0
    full, half = (Embeddings.load(Path(run, "embeddings.safetensors")) for run in ("full", "half"))
    assert full.stamp.inputs["model"] != half.stamp.inputs["model"]
    gap = (full.content.target.tokens - half.content.target.tokens).norm() / full.content.target.tokens.norm()
    assert 0 < gap < 0.05
    done("finetune", "--run", "half", "--steps", 1)
    result = optimize(photo, models / "cascade", "--encoder", "8bit", run="eighth")
    assert (result.code, "imagic-cli[adam8bit]" in result.err) == (2, True)
    assert not Path("eighth").exists()


WRONG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no base": (lambda model: (model / "base/model_index.json").unlink(), ["has no model_index.json"]),
    "no vocabulary": (
        lambda model: (model / "base/tokenizer/tokenizer.json").unlink(),
        ["tokenizer cannot be loaded: its vocabulary has"],
    ),
    "no noise for the smaller picture": (
        lambda model: shutil.rmtree(model / "super-resolution/image_noising_scheduler"),
        ["super-resolution has no image_noising_scheduler config"],
    ),
    "a base above the base": (
        lambda model: edit_json(model / "super-resolution/model_index.json", _class_name="IFPipeline"),
        ["super-resolution is a IFPipeline"],
    ),
    "sizes that do not follow": (
        lambda model: edit_json(model / "super-resolution/unet/config.json", sample_size=40),
        ["40 pixels", "16 below it"],
    ),
    "super-resolution alone": (
        lambda model: [shutil.rmtree(model / "base"), (model / "super-resolution").rename(model / "base")],
        ["is a IFSuperResolutionPipeline", "supported: "],
    ),
    "another prediction": (
        lambda model: edit_json(model / "base/scheduler/scheduler_config.json", prediction_type="flow"),
        ["predicts flow"],
    ),
    "code of its own": (
        lambda model: edit_json(model / "upscaler/model_index.json", _class_name=["own", "Own"]),
        ["asks to run code of its own"],
    ),
    "no text encoder for the upscaler": (
        lambda model: shutil.rmtree(model / "upscaler/text_encoder"),
        ["upscaler", "text_encoder"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_cascade_that_is_not_whole_is_refused(name: str, photo: Path, model: Path) -> None:
    damage, parts = WRONG[name]
    damage(model)
    refused(optimize(photo, model), *parts)
    assert not Path("run/embeddings.safetensors").exists()


def test_a_changed_part_is_another_model(run: Path, model: Path, photo: Path) -> None:
    assert optimize(photo, model, run="other").code == 0
    edit_json(model / "upscaler/low_res_scheduler/scheduler_config.json", beta_end=0.03)
    result = imagic("finetune", "--run", "other")
    assert (result.code, "its files changed" in result.err) == (4, True)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_every_level_runs_in_half_precision(photo: Path, models: Path, dtype: str) -> None:
    done("edit", photo, TEXT, "--model", models / "cascade", "--run", "run", "--dtype", dtype, *SHORT)
    record = json.loads(Path("run/run.json").read_text())
    assert {record["finetune"]["dtype"], record["above"][SR]["dtype"], record["generate"]["dtype"]} == {dtype}


def test_gradient_checkpointing_changes_no_bit(run: Path) -> None:
    before = digests(run)
    done("finetune", "--run", run, "--gradient-checkpointing", "--force")
    assert digests(run) == before


def test_a_tokenizer_in_sentencepieces_own_format_says_what_it_needs(photo: Path, model: Path) -> None:
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    (model / "base/tokenizer/tokenizer.json").unlink()
    (model / "base/tokenizer/spiece.model").write_bytes(b"\n")
    refused(optimize(photo, model), "needs sentencepiece", "imagic-cli[if]")
