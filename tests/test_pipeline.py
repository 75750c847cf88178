"""The three stages through the real command."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import digests, done, imagic

from imagic_cli.config import ModelSource
from imagic_cli.errors import Interrupted
from imagic_cli.fit import Step
from imagic_cli.presets import Preset, load_preset
from imagic_cli.stages import training

TEXT = "a bird spreading wings"
FILES = {
    "embeddings.safetensors",
    "image.png",
    "images/eta-0.700_seed-0000.json",
    "images/eta-0.700_seed-0000.png",
    "logs/finetune.jsonl",
    "logs/optimize.jsonl",
    "samples.safetensors",
    "weights.safetensors",
}
GOLDEN_A = [1.014227, 0.968859, 1.442408, 1.088655, 1.014095]
GOLDEN_B = [1.014095, 1.241595, 1.344612, 1.18267, 1.014088]


def edit(photo: Path, model: Path, run: Path, steps: int = 3) -> None:
    done("optimize", photo, TEXT, "--model", model, "--run", run, "--steps", steps)
    done("finetune", "--run", run, "--steps", steps)
    done("generate", "--run", run)


@pytest.mark.parametrize("family", ["sd", "sdv", "sdxl"])
def test_a_run_holds_exactly_these_files(photo: Path, models: Path, family: str) -> None:
    edit(photo, models / family, Path("run"))
    assert set(digests(Path("run"))) == FILES
    assert imagic("check", "run").code == 0


def test_losses_are_what_they_were(photo: Path, models: Path) -> None:
    # A change of the code that is not meant to change results must leave these alone; another torch may move the last
    # digits.
    edit(photo, models / "sd", Path("run"))
    told = {}
    for stage in ("optimize", "finetune"):
        lines = [json.loads(line) for line in Path("run/logs", f"{stage}.jsonl").read_text().splitlines()]
        told[stage] = [line.get("loss", line.get("probe")) for line in lines]
    assert told["optimize"] == pytest.approx(GOLDEN_A, rel=1e-4)
    assert told["finetune"] == pytest.approx(GOLDEN_B, rel=1e-4)


def test_the_three_commands_work_as_typed(photo: Path, models: Path) -> None:
    path = done("optimize", photo, TEXT, "--model", models / "sd", "--steps", 2).out.strip()
    assert path.startswith("runs/bird-a-bird-spreading-wings-")
    assert f"run: {path}" in done("finetune", "--steps", 2).err
    result = done("generate", "--eta", "0.7")
    assert f"run: {path}" in result.err
    assert result.out.strip() == f"{path}/images/eta-0.700_seed-0000.png"
    done("optimize", photo, "a sleeping bird", "--model", models / "sd", "--steps", 2)
    assert path not in done("status").out


def test_edit_is_the_three_stages(photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ["--optimize-steps", 3, "--finetune-steps", 3]
    done("edit", photo, TEXT, "--model", models / "sd", "--run", "one", *steps)
    edit(photo, models / "sd", Path("three"))
    assert digests(Path("one")) == digests(Path("three"))
    monkeypatch.setenv("IMAGIC_RUN", "one")
    assert done("edit", photo, TEXT, *steps).err.count("up to date") == 4


def test_status_tells_what_to_type_next(photo: Path, models: Path) -> None:
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 2)
    told = done("status", "run").out
    assert "done" in told
    assert "next: imagic finetune --run run" in told
    done("finetune", "--run", "run", "--steps", 2)
    assert "next: imagic generate --run run" in done("status", "run").out


def test_clean_removes_what_can_be_made_again(photo: Path, models: Path) -> None:
    edit(photo, models / "sd", Path("run"))
    done("generate", "--run", "run", "--prompt", "a dog")
    before = digests(Path("run"))
    removed = done("clean", "run").lines
    assert [Path(line).parent.name for line in removed] == ["texts"]
    assert before.keys() - digests(Path("run")).keys() == {str(Path(line).relative_to("run")) for line in removed}
    assert imagic("check", "run").code == 0


def test_a_dry_run_tells_the_cost_and_does_nothing(photo: Path, models: Path) -> None:
    lines = done("edit", photo, TEXT, "--model", models / "sd", "--run", "run", "--dry-run", "--json").lines
    plan, *costs = [json.loads(line) for line in lines]
    assert plan["record"]["optimize"]["steps"] == 1000
    assert [cost["stage"] for cost in costs] == ["optimize", "finetune", "generate"]
    assert all(cost["flop"] > 0 and cost["memory"] > 0 and cost["disk"] > 0 for cost in costs)
    # A whole weight's gradient costs more than the embedding's alone.
    assert costs[1]["flop"] / 1500 > costs[0]["flop"] / 1000
    assert not Path("run").exists()


def test_a_dry_run_tells_what_is_there_already(photo: Path, models: Path) -> None:
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 2)

    def there(*command: object) -> dict[str, str]:
        lines = map(json.loads, done(*command, "--dry-run", "--json").lines)
        return {line["stage"]: line["there"] for line in lines if line["event"] == "cost"}

    edit = ["edit", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 2]
    assert there(*edit) == {"optimize": "done already", "finetune": "", "generate": ""}
    told = there(*edit, "--optimize-steps", 3)
    assert told == {"optimize": "other work (steps 2 -> 3): needs --force", "finetune": "", "generate": ""}
    assert "needs --force" in done(*edit, "--optimize-steps", 3, "--dry-run").out


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_the_photograph_in_a_run_is_brought_back(photo: Path, models: Path, content: bytes | None) -> None:
    command = ["optimize", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 2]
    done(*command)
    image = Path("run/image.png")
    before = image.read_bytes()
    image.unlink()
    if content is not None:
        image.write_bytes(content)
    told = imagic("finetune", "--run", "run", "--steps", 1)
    assert (told.code, "imagic optimize IMAGE TEXT --run run brings it back" in told.err) == (4, True), told.err
    done(*command)
    assert image.read_bytes() == before
    assert imagic("check", "run").code == 0


def test_a_text_longer_than_the_window_is_told(photo: Path, models: Path) -> None:
    result = done("optimize", photo, "a" * 75 + "bcd", "--model", models / "sd", "--run", "run", "--steps", 1)
    assert "cut off: 'b c d'" in result.err or "cut off: 'bcd'" in result.err


def test_a_stopped_run_is_the_one_last_used(photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_arguments: object) -> Iterator[Step]:
        yield Step(1, 1.0)
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        assert imagic("optimize", photo, "a bird", "--model", models / "sd", "--steps", 3).code == 130
    told = done("status")
    assert "missing" in told.out
    assert "run: runs/bird-a-bird-" in told.err
    assert "next: imagic optimize --run runs/bird-a-bird-" in told.out


def test_what_edit_is_told_is_the_runs_own_way(photo: Path, models: Path) -> None:
    flags = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 3]
    done("edit", photo, TEXT, "--model", models / "sd", "--run", "run", *flags)
    assert set(digests(Path("run"))) == FILES
    assert "next: imagic generate --eta 0.6" in done("status", "run").out
    assert "up to date" in done("generate", "--run", "run").err


def test_that_a_run_keeps_its_own_numbers_is_told_where_nobody_types_them(photo: Path, models: Path) -> None:
    command = ["edit", photo, TEXT, "--model", models / "sd", "--run", "run"]
    short = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 2]
    assert "keeps the numbers" not in done(*command, *short).err
    assert "keeps the numbers" not in done(*command, *short).err
    told = done(*command, "--steps", 2).err
    began = "run keeps the numbers that it began with (optimize steps 1000 -> 2, finetune steps 1500 -> 2)"
    assert f"warning: {began}: another --run takes the preset's" in told


def test_a_stopped_edit_goes_on_by_its_own_command(photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = training.fit

    def stopped(*arguments: object) -> Iterator[Step]:
        for step in fit(*arguments):
            if step.index == 2:
                signal.raise_signal(signal.SIGTERM)
            yield step

    command = ["edit", photo, TEXT, "--model", models / "sd", "--run", "run"]
    command += ["--optimize-steps", 3, "--finetune-steps", 3, "--steps", 1]
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        result = imagic(*command)
        assert (result.code, result.err.splitlines()[-1]) == (
            143,
            "imagic: stopped; what is done is kept: the same command continues",
        )
        forced = imagic(*command, "--force")
        # That would begin anew.
        assert forced.err.splitlines()[-1].endswith("--force --run run")
    done(*command)


def test_another_model_without_its_name_does_not_take_over_a_run(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = load_preset("sd15")
    other = preset.model_copy(update={"model": ModelSource(source=str(models / "sdv"))})
    monkeypatch.setattr("imagic_cli.presets.load_preset", lambda _name: other)
    run = done("optimize", photo, TEXT, "--model", models / "sd", "--steps", 2).out.strip()
    record = Path(run, "run.json").read_bytes()
    result = imagic("optimize", photo, TEXT, "--steps", 2)
    assert (result.code, "model changed" in result.err) == (4, True)
    assert Path(run, "run.json").read_bytes() == record


def test_the_numbers_of_one_preset_for_the_model_of_another(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = load_preset

    def local(name: str) -> Preset:
        return real(name).model_copy(update={"model": ModelSource(source=str(models / "sdv"))})

    monkeypatch.setattr("imagic_cli.presets.load_preset", local)
    flags = ["--model", "sd15", "--preset", "community", "--dry-run", "--json", "--run", "run"]
    plan = json.loads(done("optimize", photo, TEXT, *flags).lines[0])["record"]
    assert (plan["model"]["source"], plan["optimize"]["steps"]) == (str(models / "sdv"), 500)


def test_an_optimizer_that_is_not_installed_is_refused_before_anything_is_written(photo: Path, models: Path) -> None:
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 2)
    record = Path("run/run.json").read_bytes()
    result = imagic("finetune", "--run", "run", "--optimizer", "adam8bit")
    assert (result.code, "imagic-cli[adam8bit]" in result.err) == (2, True)
    assert Path("run/run.json").read_bytes() == record
