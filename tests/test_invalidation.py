"""Group 9: a change makes exactly the stages stale that depend on it, and nothing else makes any."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import specimen
import toys
from drive import digests, done, imagic
from PIL import Image
from specimen import OTHER_TEXT, STEPS, TEXT

from imagic_cli.config import (
    AboveSettings,
    FinetuneSettings,
    ModelSource,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
)
from imagic_cli.record import ImageRecord, Record

Arguments = list[object]
DONE, STALE = "done", "stale"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Path:
    copy = specimen.copy(specimen.make(shared), tmp_path / "run")
    # What a kill left behind goes with the next command.
    shutil.rmtree(copy / ".progress")
    return copy


def states(run: Path) -> dict[str, tuple[str, str]]:
    """Condition and reason, by stage."""
    lines = [json.loads(line) for line in done("status", run, "--json").lines]
    return {each["stage"]: (each["condition"], each["detail"]) for each in lines if each["event"] == "state"}


def conditions(run: Path) -> list[str]:
    """Of optimize, finetune, generate, and the variant."""
    return [condition for condition, _reason in states(run).values()]


def begin(shared: Path, run: Path, **changed: object) -> Arguments:
    """The command of stage A, with something else in one place."""
    usual: dict[str, object] = {"photo": shared / "photo-48.png", "text": TEXT, "model": shared / "models" / "sd"}
    usual |= {"steps": STEPS, "seed": 0}
    parts = usual | changed
    flags = [part for name, value in parts.items() if name not in {"photo", "text"} for part in (f"--{name}", value)]
    return ["optimize", parts["photo"], parts["text"], "--run", run, *flags]


def refuses(arguments: Arguments, *reasons: str) -> None:
    result = imagic(*arguments)
    assert result.code == 4, result.err
    assert all(reason in result.err for reason in reasons), result.err


A_CHANGES: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "pixels": (lambda shared: {"photo": shared / "photo-40.png"}, "image changed"),
    "prompt": (lambda _shared: {"text": OTHER_TEXT}, 'text "a bird spreading wings" -> "a blue fish"'),
    "steps": (lambda _shared: {"steps": 2}, "steps 3 -> 2"),
    "lr": (lambda _shared: {"lr": 1e-3}, "learning_rate 0.002 -> 0.001"),
    "seed": (lambda _shared: {"seed": 5}, "seed 0 -> 5"),
    "model": (lambda shared: {"model": shared / "models" / "sdv"}, "model changed"),
    "precision": (lambda _shared: {"dtype": "bf16"}, 'dtype "fp32" -> "bf16"'),
    "size": (lambda _shared: {"size": 48}, "image changed"),
}


@pytest.mark.parametrize("name", A_CHANGES)
def test_what_stage_a_read_makes_everything_stale(name: str, shared: Path, run: Path) -> None:
    toys.picture(40).save(shared / "photo-40.png")
    if name == "model" and not (shared / "models" / "sdv").exists():
        toys.stable_diffusion(shared / "models" / "sdv", "v_prediction", seed=1)
    change, reason = A_CHANGES[name]
    command = begin(shared, run, **change(shared))
    before = digests(run)
    refuses(command, reason, "--force")
    assert digests(run) == before
    assert conditions(run) == [DONE] * 4
    done(*command, "--force")
    found = states(run)
    assert [condition for condition, _reason in found.values()] == [DONE, STALE, STALE, STALE]
    assert "embeddings changed" in found["finetune"][1]
    assert "finetune is stale" in found["generate"][1]
    before = digests(run)
    refuses(["finetune", "--run", run], "embeddings changed", "--force")
    refuses(["generate", "--run", run], "embeddings changed", "finetune --force")
    assert digests(run) == before


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--steps", 2], "steps 3 -> 2"),
        (["--lr", 1e-6], "learning_rate 5e-07 -> 1e-06"),
        (["--seed", 5], "seed 0 -> 5"),
        (["--dtype", "bf16"], 'dtype "fp32" -> "bf16"'),
        (["--delta-dtype", "bf16"], 'delta_dtype "fp16" -> "bf16"'),
        (["--method", "lora"], 'method default -> "lora"'),
    ],
)
def test_what_stage_b_read_leaves_stage_a(flags: Arguments, reason: str, run: Path) -> None:
    command = ["finetune", "--run", run, *flags]
    refuses(command, reason, "--force")
    assert conditions(run) == [DONE] * 4
    done(*command, "--force")
    found = states(run)
    assert [condition for condition, _reason in found.values()] == [DONE, DONE, STALE, STALE]
    assert found["generate"][1] == "weights changed"
    before = digests(run)
    refuses(["generate", "--run", run], "weights changed", "--force")
    assert digests(run) == before


@pytest.mark.parametrize("flags", [["--steps", 3], ["--guidance", 1], ["--scheduler", "euler"], ["--seed", 5]])
def test_another_way_of_sampling_leaves_everything(flags: Arguments, run: Path) -> None:
    before = {name: digest for name, digest in digests(run).items() if name != "samples.safetensors"}
    done("generate", "--run", run, *(["--eta", "0.7"] if flags[0] == "--seed" else []), *flags)
    assert set(conditions(run)) == {DONE}
    assert before.items() <= digests(run).items()


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("embeddings", ["damaged", STALE, STALE, STALE]),
        ("weights", [DONE, "damaged", STALE, STALE]),
        ("samples", [DONE, DONE, "damaged", DONE]),
    ],
)
def test_another_schema(kind: str, wanted: list[str], run: Path) -> None:
    path = specimen.place(run, kind)
    path.write_bytes(path.read_bytes().replace(b'\\"schema\\":1', b'\\"schema\\":2', 1))
    assert conditions(run) == wanted
    _prepare, command = specimen.readers(run)[kind]
    refuses(command, path.name, "layout version 2")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
def test_changed_files_of_the_model_are_noticed(part: str, shared: Path, tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(shared / "models" / "sd", model)
    done(*begin(shared, run, model=model))
    path = model / part
    mark = path.stat()
    content = path.read_bytes()
    # Of equal length, and with the old time of change.
    path.write_bytes(content[:-4] + b"\0\0\0\0" if path.suffix != ".json" else content.replace(b"0.012", b"0.013"))
    os.utime(path, ns=(mark.st_atime_ns, mark.st_mtime_ns))
    before = digests(run)
    for command in ("finetune", "generate"):
        refuses([command, "--run", run], "is not the model", "its files changed", "--force")
    refuses(begin(shared, run, model=model), "model changed", "--force")
    assert digests(run) == before


def all_up_to_date(shared: Path, run: Path, first: Arguments, *flags: object) -> None:
    for command in (first, ["finetune", "--run", run, *flags], ["generate", "--run", run, *flags]):
        result = done(*command)
        assert "up to date" in result.err, (command, result.err)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--device", "cpu"],
        ["--device", "auto"],
        ["--strict"],
        ["--debug"],
        ["--dtype", "fp32"],
        ["--dtype", "auto"],
    ],
    ids=" ".join,
)
def test_how_it_is_computed_makes_nothing_stale(flags: Arguments, shared: Path, run: Path) -> None:
    before = digests(run)
    all_up_to_date(shared, run, [*begin(shared, run), *flags], *flags)
    assert digests(run) == before


def test_places_logs_and_intervals_make_nothing_stale(shared: Path, run: Path, tmp_path: Path) -> None:
    before = digests(run)
    for flags in (["--checkpoint-every", 1], ["--checkpoint-every", 0], ["--gradient-checkpointing"]):
        for command in (begin(shared, run), ["finetune", "--run", run]):
            assert "up to date" in done(*command, *flags).err
    assert "up to date" in done("generate", "--run", run, "-o", tmp_path / "copy.png").err
    assert "up to date" in done("generate", "--run", run, "--batch-size", 4).err
    for command in (begin(shared, run), ["finetune", "--run", run], ["generate", "--run", run]):
        assert done(*command, "--quiet").err == ""
        lines = [json.loads(line) for line in done(*command, "--json").lines]
        assert [line["reused"] for line in lines if line["event"] == "finished"] == [True]
    assert digests(run) == before


@pytest.mark.parametrize("name", ["other name.png", "bird.bmp", "uncompressed.png"])
def test_the_photographs_file_makes_nothing_stale(name: str, shared: Path, run: Path, tmp_path: Path) -> None:
    photo, before = tmp_path / name, digests(run)
    with Image.open(shared / "photo-48.png") as image:
        image.save(photo, **({"compress_level": 0} if name == "uncompressed.png" else {}))
    os.utime(photo, (0, 0))
    all_up_to_date(shared, run, begin(shared, run, photo=photo))
    assert digests(run) == before


def test_the_time_of_files_makes_nothing_stale(shared: Path, run: Path) -> None:
    before = digests(run)
    for path in [*run.rglob("*"), *(shared / "models" / "sd").rglob("*")]:
        os.utime(path, (10**9, 10**9))
    all_up_to_date(shared, run, begin(shared, run))
    assert digests(run) == before


def test_a_moved_run_is_the_same_run(shared: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(run)
    moved = tmp_path / "another" / "place"
    moved.parent.mkdir()
    run.rename(moved)
    all_up_to_date(shared, moved, begin(shared, moved))
    monkeypatch.setenv("IMAGIC_RUN", str(moved))
    monkeypatch.chdir(moved.parent)
    assert "up to date" in done("finetune").err
    assert digests(moved) == before
    assert done("check", moved).code == 0


def test_a_moved_model_is_the_same_model(shared: Path, run: Path, tmp_path: Path) -> None:
    place = tmp_path / "moved"
    shutil.copytree(shared / "models" / "sd", place)
    record = json.loads((run / "run.json").read_text())
    elsewhere = tmp_path / "gone"
    place.rename(elsewhere)
    all_up_to_date(shared, run, begin(shared, run, model=elsewhere))
    found = json.loads((run / "run.json").read_text())
    assert found["model"]["source"] == str(elsewhere)
    # What comes later finds it there, and everything else is as it was.
    assert {name for name in record if record[name] != found[name]} == {"model", "digest"}
    before = digests(run)
    shutil.move(elsewhere, place)
    result = imagic("finetune", "--run", run)
    assert (result.code, str(elsewhere) in result.err) == (9, True), result.err
    assert digests(run) == before


def test_keys_are_what_they_were() -> None:
    # Of a model with one level: runs that people have must stay up to date.
    record = Record(
        text="a bird",
        image=ImageRecord(name="bird.png", width=512, height=512, pixels="p" * 64),
        preset="sd15",
        model=ModelSource(source="x"),
        family="StableDiffusionPipeline",
        identity="i" * 64,
        photo=PhotoSettings(),
        optimize=OptimizeSettings(dtype="fp32"),
        finetune=FinetuneSettings(dtype="fp32"),
        generate=SamplingSettings(dtype="fp32"),
    )
    stamps = [record.optimize_stamp(), record.finetune_stamp("e" * 64)]
    stamps.append(record.generate_stamp(record.generate, "e" * 64, {"base": "w" * 64}))
    assert [stamp.key for stamp in stamps] == [
        "e64274d6591adb5c22b5d366a40f6ee26763060922396b4c75d436b46ff94121",
        "52e0d9afc5acb36c1e728d507bb0ce9c376cd2cabebd4b317da96b93d4a686e1",
        "a82789c1e83c943aaa58d18a8afdfa8156858231a29c7f08cb19fdaf3680af50",
    ]
    # A cascade's upper level, tuned at e_tgt: its key was made before there was another way.
    cascade = record.model_copy(update={"above": {"sr64-256": AboveSettings(dtype="fp32")}, "sizes": (64, 256)})
    key = "566a6ce44230fc7a29f2782979931a17386a6191ca4f6ae450c7a0dcf704f2ce"
    assert {cascade.finetune_stamp(digest * 64, "sr64-256").key for digest in "ef"} == {key}
