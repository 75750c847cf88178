"""Group 15: each thing that can be typed wrongly has its code, is told in few lines, and changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import specimen
from drive import digests, done, imagic
from specimen import TEXT

from imagic_cli.cli import commands

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def place(shared: Path, tmp_path: Path) -> Path:
    """A working directory with a run, a photograph, a model, and things that are none of these."""
    specimen.copy(specimen.make(shared), tmp_path / "run")
    shutil.copy(shared / "photo-48.png", tmp_path / "bird.png")
    (tmp_path / "sd").symlink_to(shared / "models" / "sd")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes((tmp_path / "bird.png").read_bytes()[:-100])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (tmp_path / "page.jpg").write_text("<html></html>")
    (tmp_path / "page.html").write_text("<html></html>")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    (tmp_path / "stub.safetensors").write_bytes(b"")
    return tmp_path


TYPED_WRONGLY: list[tuple[int, list[str], str]] = [
    (2, ["optimise"], "see imagic --help"),
    (2, ["--run", "run"], "--run"),
    (2, ["status", "--run", "run"], "imagic status RUN"),
    (2, ["finetune", "run"], "imagic finetune --run RUN"),
    (2, ["optimize"], "start: imagic optimize IMAGE TEXT"),
    (2, ["edit", "bird.png", "a", "bird", "flying"], "a text of several words belongs in quotes"),
    (2, ["scene", "a", "bird", "bird.png"], "a text of several words belongs in quotes"),
    (2, ["optimize", "bird.png"], "no text"),
    (2, ["optimize", "bird.png", ""], "no text"),
    (2, ["optimize", "bird.png", " \n\t"], "no text"),
    (2, ["optimize", "bird.png", "\udcff"], "UTF-8"),
    (2, ["optimize", "bird.png", TEXT, "more"], "more"),
    (2, ["optimize", "bird.png", TEXT, "--step", "5"], "see imagic optimize --help"),
    (2, ["finetune", "--run", "run", "--steps", "0"], "--steps 0"),
    (2, ["optimize", "bird.png", TEXT, "--steps", "-3"], "--steps -3"),
    (2, ["optimize", "bird.png", TEXT, "--steps", "many"], "'--steps'"),
    (2, ["optimize", "bird.png", TEXT, "--steps", "9" * 400, "--dry-run"], "less than or equal to 10000000"),
    (2, ["finetune", "--run", "run", "--steps", "9" * 400], "less than or equal to 10000000"),
    (2, ["optimize", "bird.png", TEXT, "--steps", "1.5"], "'--steps'"),
    (2, ["optimize", "bird.png", TEXT, "--steps"], "--steps"),
    (2, ["optimize", "bird.png", TEXT, "--lr", "0"], "--lr 0"),
    (2, ["optimize", "bird.png", TEXT, "--lr", "nan"], "--lr nan"),
    (2, ["optimize", "bird.png", TEXT, "--lr", "inf"], "--lr inf"),
    (2, ["optimize", "bird.png", TEXT, "--batch", "0"], "--batch 0"),
    (2, ["optimize", "bird.png", TEXT, "--seed", "-1"], "--seed -1"),
    (2, ["optimize", "bird.png", TEXT, "--seed", str(2**63)], "--seed"),
    (2, ["optimize", "bird.png", TEXT, "--optimizer", "sgd"], "sgd"),
    (2, ["optimize", "bird.png", TEXT, "--dtype", "fp8"], "fp8"),
    (2, ["optimize", "bird.png", TEXT, "--fit", "stretch"], "stretch"),
    (2, ["optimize", "bird.png", TEXT, "--center", "0.5"], "--center '0.5'"),
    (2, ["optimize", "bird.png", TEXT, "--center", "2,2"], "--center"),
    (2, ["optimize", "bird.png", TEXT, "--center", "nan,0"], "--center"),
    (2, ["optimize", "bird.png", TEXT, "--size", "4"], "--size 4"),
    (2, ["optimize", "bird.png", TEXT, "--size", "99999"], "--size 99999"),
    (2, ["optimize", "bird.png", TEXT, "--preset", "sd99"], "no preset 'sd99'"),
    (2, ["optimize", "bird.png", TEXT, "--device", "tpu"], "no device 'tpu'"),
    (2, ["optimize", "bird.png", TEXT, "--device", f"cuda:{'9' * 5000}"], "no device 'cuda:9"),
    (2, ["optimize", "bird.png", TEXT, "--checkpoint-every", "-1"], "--checkpoint-every -1"),
    (2, ["optimize", "bird.png", TEXT, "--probe-every", "-1"], "--probe-every -1"),
    (2, ["optimize", "bird.png", TEXT, "--run", "x" * 256], "--run"),
    (2, ["finetune"], "no run was used"),
    (2, ["finetune", "--run", "run", "--delta-dtype", "int8"], "--delta-dtype 'int8'"),
    (2, ["finetune", "--run", "run", "--lr", "-1"], "--lr -1"),
    (2, ["finetune", "--run", "run", "--method", "half"], "half"),
    (2, ["finetune", "--run", "run", "--rank", "8"], "add --method lora"),
    (2, ["finetune", "--run", "run", "--method", "full", "--rank", "8"], "add --method lora"),
    (2, ["finetune", "--run", "run", "--method", "lora", "--rank", "0"], "--rank 0"),
    (2, ["edit", "bird.png", TEXT, "--rank", "8"], "add --method lora"),
    (2, ["export", "run"], "--lora"),
    (2, ["export", "run", "--lora", "lora.pt"], "must end in .safetensors"),
    (2, ["export", "run", "--lora", "nowhere/lora.safetensors"], "nowhere/lora.safetensors"),
    (2, ["export", "run", "--lora", "run/lora.safetensors"], "inside the run"),
    (2, ["generate", "--run", "run", "--eta", "much"], "--eta 'much'"),
    (2, ["generate", "--run", "run", "--eta", "0:1"], "--eta '0:1'"),
    (2, ["generate", "--run", "run", "--eta", "0:1:0"], "--eta 0:1:0"),
    (2, ["generate", "--run", "run", "--eta", "1:0:0.1"], "--eta 1:0:0.1"),
    (2, ["generate", "--run", "run", "--eta", "0:1:1e-9"], "--eta 0:1:1e-9"),
    (2, ["generate", "--run", "run", "--eta", "nan"], "--eta 'nan'"),
    (2, ["generate", "--run", "run", "--eta", ""], "--eta ''"),
    (2, ["generate", "--run", "run", "--seeds", "0"], "--seeds 0"),
    (2, ["generate", "--run", "run", "--seeds", "1000000"], "--seeds 1000000"),
    (2, ["generate", "--run", "run", "--seed", "-1"], "--seed -1"),
    (2, ["generate", "--run", "run", "--seed", str(2**63)], "not from 0 to 2^63 - 1"),
    (2, ["generate", "--run", "run", "--seed", str(2**63 - 1), "--seeds", "2"], "the last of 2 seeds"),
    (2, ["generate", "--run", "run", "--eta", "0:999:0.1", "--seeds", "10000"], "99910000 images, more than 100000"),
    (2, ["generate", "--run", "run", "--eta", ",".join(["0:999:0.1"] * 3)], "more than 10000 values"),
    (2, ["generate", "--run", "run", "--prompt", ""], "--prompt is empty"),
    (2, ["generate", "--run", "run", "--prompt", "\udcff"], "--prompt is not valid UTF-8"),
    (2, ["generate", "--run", "run", "--negative", "\udcff"], "--negative is not valid UTF-8"),
    (2, ["generate", "--run", "run", "--scheduler", "magic"], "magic"),
    (2, ["generate", "--run", "run", "--steps", "0"], "--steps 0"),
    (2, ["generate", "--run", "run", "--guidance", "-1"], "--guidance -1"),
    (2, ["generate", "--run", "run", "--guidance", "inf"], "--guidance inf"),
    (2, ["generate", "--run", "run", "--size", "33"], "--size 33 is no size"),
    (2, ["generate", "--run", "run", "--batch-size", "0"], "--batch-size 0"),
    (2, ["generate", "--run", "run", "-o", "picture.jpg"], "must end in .png"),
    (2, ["generate", "--run", "run", "-o", "nowhere/picture.png"], "nowhere/picture.png"),
    (2, ["generate", "--run", "run", "-o", "folder.png/x.png"], "folder.png"),
    (2, ["generate", "--run", "run", "-o", "a.png", "--seeds", "2"], "takes one image"),
    (2, ["generate", "--run", "run", "-o", "text.png"], "text.png is another file; --force replaces it"),
    (2, ["generate", "--run", "run", "-o", "run/image.png"], "inside the run"),
    (2, ["generate", "--run", "run", "-o", "run/image.png", "--force"], "inside the run"),
    (2, ["generate", "--run", "run", "-o", "run/new.png"], "inside the run"),
    (2, ["edit", "bird.png"], "no text"),
    (2, ["edit", "bird.png", TEXT, "--model", "sd", "--optimize-steps", "-1"], "imagic: --optimize-steps -1"),
    (2, ["edit", "bird.png", TEXT, "--model", "sd", "--finetune-steps", "0"], "imagic: --finetune-steps 0"),
    (2, ["edit", "bird.png", TEXT, "--model", "sd", "--steps", "0"], "imagic: --steps 0"),
    (2, ["edit", "--run", "run", "--method", "lora", "--rank", "0"], "imagic: --rank 0"),
    (2, ["evaluate", "pairs.csv", "--optimize-steps", "-1"], "imagic: --optimize-steps -1"),
    (2, ["evaluate", "pairs.csv", "--finetune-steps", "0"], "imagic: --finetune-steps 0"),
    (2, ["evaluate", "pairs.csv", "--size", "4"], "imagic: --size 4"),
    (2, ["evaluate", "pairs.csv", "--seed", "3:3"], "imagic: --seed 3:3"),
    (2, ["evaluate", "pairs.csv", "--out", "bird.png"], "imagic: --out bird.png"),
    (2, ["status", "run", "more"], "more"),
    (2, ["edit", "bird.png", TEXT, "-o", "bird.png"], "bird.png is the photograph"),
    (2, ["edit", "bird.png", TEXT, "-o", "bird.png", "--force"], "bird.png is the photograph"),
    (2, ["edit", "bird.png", TEXT, "-o", "text.png"], "text.png is another file"),
    (2, ["edit", "bird.png", TEXT, "--run", "run", "-o", "run/x.png"], "inside the run"),
    (2, ["scene", "a rde bird", "bird.png"], "unknown word 'rde' (nearest known: red"),
    (2, ["scene", "a purple bird", "bird.png"], "a bird can be perched, spreading wings, flying, eating, red, blue"),
    (2, ["scene", "a purple bird", "bird.png"], "on grass, on sand"),
    (2, ["scene", "an elephant", "bird.png"], "'elephant'; name one subject: bird, parrots, dog"),
    (2, ["scene", "", "bird.png"], "name one subject: bird"),
    (2, ["scene", "a red blue bird", "bird.png"], "two of colour"),
    (2, ["scene", "a bird", "bird.jpg"], "must end in .png"),
    (2, ["scene", "a bird", "nowhere/bird.png"], "nowhere/bird.png"),
    (2, ["scene", "a bird", "bird.png", "--seed", "-1"], "--seed"),
    (2, ["scene", "a bird", "bird.png"], "bird.png is another file; remove it first"),
    (2, ["report", "run", "--out", "page.html"], "page.html is another file; remove it first"),
    (2, ["sweep", "run", "--seed", "8:0"], "imagic: --seed 8:0"),
    (2, ["status", "r\udcff"], "the run's name is not valid UTF-8"),
    (2, ["finetune", "--run", "r\udcff"], "is not valid UTF-8"),
    (2, ["generate", "--run", "run", "-o", "r\udcff.png"], "--output is not valid UTF-8"),
    (2, ["evaluate", "pairs.csv", "--out", "r\udcff"], "--out is not valid UTF-8"),
    (2, ["sweep", "run", "--seed", "9" * 5000], "is no seed or range of seeds"),
    (2, ["sweep", "run", "--seed", f"0:{'9' * 5000}"], "is no seed or range of seeds"),
    (2, ["sweep", "run", "--eta", "0:999:0.1", "--seed", "0:10000"], "more than 100000"),
    (2, ["sweep", "run", "--eta", "0:1"], "--eta '0:1'"),
    (2, ["ablate", "generate", "run"], "finetune"),
    (2, ["ablate", "optimize", "run", "--steps", "10,x"], "--steps '10,x'"),
    (2, ["ablate", "finetune", "run", "--steps", "2,4"], "--steps 2,4 is of ablate optimize"),
    (2, ["ablate", "optimize", "run", "--clip", "sd"], "--clip sd is of ablate super-resolution"),
    (2, ["baseline", "p2p", "run"], "sdedit"),
    (2, ["baseline", "sdedit", "run", "--strength", "much"], "--strength 'much'"),
    (2, ["baseline", "sdedit", "run", "--strength", "0"], "--strength 0.000 is not above 0"),
    (2, ["baseline", "sdedit", "run", "--strength", "0.4:1.2:0.4"], "--strength 1.200 is not above 0"),
    (2, ["baseline", "sdedit", "run", "--strength", "0.1:1:0.001", "--seed", "0:10000"], "more than 100000"),
    (2, ["baseline", "sdedit", "run", "--guidance", "3"], "--guidance 3 is of baseline ddib"),
    (2, ["baseline", "sdedit", "run", "--source", "a bird"], "--source a bird is of baseline ddib"),
    (2, ["baseline", "ddib", "run"], "--source"),
    (2, ["baseline", "ddib", "run", "--source", "a bird", "--strength", "0.5"], "--strength 0.5 is of baseline sdedit"),
    (2, ["baseline", "ddib", "run", "--source", "a bird", "--seed", "0:2"], "--seed 0:2 is of baseline sdedit"),
    (2, ["baseline", "ddib", "run", "--source", "a bird", "--guidance", "1:2"], "--guidance '1:2'"),
    (2, ["bench", "tedbench"], "sketchbook"),
    (2, ["bench", "sketchbook", "--pairs", "0"], "--pairs"),
    (2, ["bench", "sketchbook", "--shard", "3/2"], "--shard '3/2'"),
    (2, ["bench", "sketchbook", "--shard", "0/2"], "--shard '0/2'"),
    (2, ["bench", "sketchbook", "--out", "bird.png"], "--out bird.png"),
    (2, ["bench", "sketchbook", "--finetune-steps", "0"], "imagic: --finetune-steps 0"),
    (2, ["bench", "sketchbook", "--optimize-lr", "0"], "imagic: --optimize-lr 0"),
    (2, ["bench", "sketchbook", "--finetune-lr", "inf"], "imagic: --finetune-lr inf"),
]
NEEDS_THE_LIBRARIES: list[tuple[int, list[str], str]] = [
    (2, ["generate", "--run", "run", "-o", "bird.png", "--force"], "bird.png is the photograph"),
    (2, ["edit", "--run", "run", "-o", "bird.png", "--force"], "bird.png is the photograph"),
    (2, ["optimize", "bird.png", TEXT, "--model", "sd", "--size", "33"], "--size 33 is not a multiple of 16"),
    (2, ["optimize", "bird.png", TEXT, "--model", "sd", "--device", "cuda:9"], "no device 'cuda:9'"),
    (2, ["optimize", "bird.png", TEXT, "--model", "sd", "--device", "mps"], "no device 'mps'"),
    (2, ["optimize", "bird.png", TEXT, "--model", "sd", "--center", "0.2,0.2"], "add --fit crop"),
    (2, ["edit", "bird.png", TEXT, "--model", "sd", "--center", "0.2,0.2", "--fit", "pad"], "add --fit crop"),
    (2, ["baseline", "sdedit", "run", "--strength", "0.03", "--steps", "4"], "--steps 34, or a strength of 0.25"),
    (2, ["baseline", "sdedit", "run", "--strength", "0.1:0.5:0.1", "--steps", "4"], "0.1 takes none of 4 steps"),
    (2, ["bench", "sketchbook", "--steps", "4", "--out", "bench"], "0.2 takes none of 4 steps; the least is --steps 5"),
    (3, ["optimize", "none.png", TEXT, "--model", "sd"], "none.png: there is no such file"),
    (3, ["optimize", "folder", TEXT, "--model", "sd"], "folder is a folder"),
    (3, ["optimize", "text.png", TEXT, "--model", "sd"], "text.png is not an image"),
    (3, ["optimize", "empty.png", TEXT, "--model", "sd"], "empty.png is an empty file"),
    (3, ["optimize", "cut.png", TEXT, "--model", "sd"], "cut.png is truncated"),
    (3, ["optimize", "page.jpg", TEXT, "--model", "sd"], "page.jpg is a web page"),
    (3, ["optimize", "bird.png", TEXT, "--model", "sd", "--run", "bird.png"], "bird.png is not a directory"),
    (3, ["optimize", "bird.png", TEXT, "--model", "sd", "--run", "folder"], "folder holds other files"),
    (4, ["optimize", "--run", "nowhere"], "no run in nowhere"),
    (4, ["optimize", "bird.png", TEXT, "--model", "sd", "--run", "run", "--steps", "9"], "steps 3 -> 9"),
    (4, ["optimize", "bird.png", "a dog", "--model", "sd", "--run", "run", "--steps", "3"], "text"),
    (2, ["optimize", "--run", "run", "--size", "64"], "the photograph is missing"),
    (4, ["finetune", "--run", "nowhere"], "no run in nowhere"),
    (4, ["finetune", "--run", "bird.png"], "no run in bird.png"),
    (4, ["finetune", "--run", "folder"], "no run in folder"),
    (4, ["finetune", "--run", "run", "--seed", "9"], "seed 0 -> 9"),
    (4, ["finetune", "--run", "run", "--method", "lora"], 'method default -> "lora"'),
    (4, ["export", "run", "--lora", "lora.safetensors"], "finetune --method lora --force"),
    (4, ["export", "nowhere", "--lora", "lora.safetensors"], "no run in nowhere"),
    (4, ["generate", "--run", "nowhere"], "no run in nowhere"),
    (4, ["status", "nowhere"], "no run in nowhere"),
    (4, ["check", "nowhere"], "no run in nowhere"),
    (4, ["clean", "nowhere"], "no run in nowhere"),
    (4, ["clean", "folder"], "no run in folder"),
    (9, ["optimize", "bird.png", TEXT, "--model", "nothing"], "no model 'nothing'"),
    (9, ["optimize", "bird.png", TEXT, "--model", ""], "no model ''"),
    (9, ["optimize", "bird.png", TEXT, "--model", "~nobody/x"], "~nobody/x"),
    (9, ["optimize", "bird.png", TEXT, "--model", "x" * 300], "no model"),
    (9, ["optimize", "bird.png", TEXT, "--model", "folder"], "has no model_index.json"),
    (9, ["optimize", "bird.png", TEXT, "--model", "bird.png"], "is not a .safetensors checkpoint"),
    (9, ["optimize", "bird.png", TEXT, "--model", "model.ckpt"], "is a pickle"),
    (9, ["optimize", "bird.png", TEXT, "--model", "stub.safetensors", "--config", "sd"], "is not a checkpoint"),
    (9, ["optimize", "bird.png", TEXT, "--model", "some/model"], "the hub cannot be reached"),
]


@pytest.mark.parametrize(("code", "typed", "part"), TYPED_WRONGLY + NEEDS_THE_LIBRARIES, ids=lambda value: None)
def test_a_bad_invocation(code: int, typed: list[str], part: str, place: Path) -> None:
    before, beside = digests(place), sorted(place.iterdir())
    result = imagic(*typed)
    assert (result.code, part in result.err) == (code, True), result.err
    assert result.out == ""
    assert 1 <= len(result.err.splitlines()) <= 3
    assert "Traceback" not in result.err
    assert digests(place) == before
    assert sorted(place.iterdir()) == beside


@pytest.mark.parametrize("typed", [["optimize", "bird.png", TEXT], ["evaluate", "x.csv"], ["study", "score", "x.csv"]])
def test_a_file_that_may_not_be_read_is_no_mistake_of_typing(typed: list[str], place: Path) -> None:
    (place / "x.csv").touch()
    # Who is root may read everything.
    denied = mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied"))
    with mock.patch.object(os, "access", return_value=False), denied:
        result = imagic(*typed)
    assert (result.code, "cannot be read" in result.err) == (3, True), result.err


def test_there_are_at_least_forty() -> None:
    assert len(TYPED_WRONGLY) >= 40
    assert len({tuple(typed) for _code, typed, _part in TYPED_WRONGLY + NEEDS_THE_LIBRARIES}) >= 80


def test_debug_shows_where_it_went_wrong(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = imagic("optimize", "none.png", TEXT, "--model", "sd", "--debug")
    assert result.code == 3
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1] == "imagic: none.png: there is no such file"
    assert capfd.readouterr() == ("", "")
    assert place.exists()


def test_help_and_usage_errors_do_not_import_torch(place: Path) -> None:
    """In one process: nothing that is said here needs the heavy libraries."""
    commands = ["optimize", "finetune", "generate", "edit", "export", "status", "check", "clean"]
    calls = [["--help"], ["--version"], *([command, "--help"] for command in commands)]
    calls += [typed for _code, typed, _part in TYPED_WRONGLY]
    calls += [["optimize", "none.png", TEXT], ["optimize", "text.png", TEXT], ["finetune", "--run", "nowhere"]]
    script = (
        "import sys\n"
        "from imagic_cli.cli import run\n"
        f"for typed in {calls!r}:\n"
        "    run(typed)\n"
        "    heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, (typed, heavy)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:surrogateescape"},
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert b"optimize" in made.stdout


@pytest.mark.parametrize("command", ["optimize", "finetune", "generate", "edit", "export", "status", "check", "clean"])
def test_every_command_explains_itself(command: str) -> None:
    told = done(command, "--help").out
    assert f"imagic {command}" in told
    assert "--debug" in told


def test_a_bare_command_shows_its_help() -> None:
    for command in ([], ["study"]):
        told = imagic(*command)
        assert (told.code, "Commands" in told.out) == (2, True)
        assert told.err == f"imagic: no command is named; see {' '.join(['imagic', *command, '--help'])}\n"


@pytest.mark.parametrize("command", [each.callback.__name__ for each in commands.app.registered_commands])
def test_no_help_is_read_as_an_emoji(command: str) -> None:
    told = done(command, "--help").out
    assert [letter for letter in told if letter >= "\u2600"] == []
    assert ("start:end:step" in told) == (command in {"generate", "edit"})


def test_status_does_without_torch(place: Path) -> None:
    script = "import sys\nfrom imagic_cli.cli import run\nsys.exit(run(['status', 'run']) or 'torch' in sys.modules)\n"
    made = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert b"done" in made.stdout
