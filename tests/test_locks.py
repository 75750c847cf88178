"""Group 10, a sample: one process works in a run, the others leave and name it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import specimen
from drive import digests, done, imagic
from reliability_locks import contention

from imagic_cli import resolve
from imagic_cli.errors import LockedError
from imagic_cli.run import Run

SR = "sr16-32"
HOLD = (
    "import sys, time; from imagic_cli.run import Run; from pathlib import Path\n"
    "with Run(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
)


@contextmanager
def holder(run: Path) -> Iterator[int]:
    """Another process that holds a run, by its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_one_of_eight_processes_holds_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = contention(2, tmp_path_factory.getbasetemp(), lambda _count: None, processes=8)
    assert outcome.passed, outcome.failures


def test_the_holder_is_named_as_long_as_it_holds(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.make()
    held = (run.path / ".lock").read_text
    with run.locked():
        assert int(held()) == os.getpid()
    assert held().strip() == ""


def test_a_process_of_another_program_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.make()
    script = "import sys, pathlib; from imagic_cli.run import Run; Run(pathlib.Path(sys.argv[1])).locked().__enter__()"
    with run.locked():
        made = subprocess.run(
            [sys.executable, "-c", script, run.path],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
        )
    assert made.returncode == 1
    assert f"{LockedError.__name__}: {run.path} is in use by process {os.getpid()};" in made.stderr


def test_a_failure_inside_gives_the_run_back(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.make()
    for _ in range(2):
        with pytest.raises(RuntimeError), run.locked():
            raise RuntimeError


def test_clean_does_not_wait_for_a_holder_nor_disturb_it(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    run = specimen.copy(specimen.make(tmp_path_factory.getbasetemp()), tmp_path / "run")
    progress = run / ".progress" / "finetune.safetensors"
    with holder(run) as pid:
        result = imagic("clean", run)
        assert (result.code, f"process {pid};" in result.err) == (5, True), result.err
        assert progress.exists()
    assert imagic("clean", run).code == 0
    assert not progress.exists()


def test_a_run_within_is_left_to_who_holds_it(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    whole = specimen.make(tmp_path_factory.getbasetemp())
    run = specimen.copy(whole, tmp_path / "run")
    inner = specimen.copy(whole, run / "ablations" / "optimize-00003")
    (inner / ".run.json.x.tmp").touch()
    (run / "ablations" / ".optimize.png.x.tmp").touch()
    before = digests(inner)
    with holder(inner) as pid:
        (inner / ".run.json.y.tmp").touch()
        with Run(run).locked():
            pass
        assert (inner / ".run.json.y.tmp").exists()
        assert not (run / "ablations" / ".optimize.png.x.tmp").exists()
        result = imagic("clean", run)
        assert (result.code, f"process {pid};" in result.err) == (5, True), result.err
    (inner / ".run.json.y.tmp").unlink()
    before.pop(".run.json.x.tmp")
    assert digests(inner) == before
    # Nothing of the outer one went before the inner one was refused.
    assert len(done("clean", run).lines) == 6
    assert imagic("check", inner).code == 0


def test_status_names_who_works_in_the_run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    run = specimen.copy(specimen.make(tmp_path_factory.getbasetemp()), tmp_path / "run")
    with holder(run) as pid:
        assert f"process {pid} works in {run}: wait for it" in done("status", run).err
    # It was killed, and its number still stands there.
    assert int((run / ".lock").read_text()) == pid
    assert done("status", run).err == ""


@pytest.fixture
def cascade(models: Path, photo: Path) -> Path:
    done("optimize", photo, "a bird", "--model", models / "cascade", "--run", "run", "--steps", 2)
    return Path("run")


def meanwhile(monkeypatch: pytest.MonkeyPatch, *command: object) -> None:
    """Another process runs a command when the next one has read run.json, and does not hold the run yet."""
    real = resolve.recorded_model

    def recorded_model(*arguments: object) -> object:
        monkeypatch.setattr(resolve, "recorded_model", real)
        done(*command)
        return real(*arguments)

    monkeypatch.setattr(resolve, "recorded_model", recorded_model)


def test_two_levels_tuned_at_once_keep_their_settings(cascade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune = ["finetune", "--run", cascade, "--steps", 1, "--level"]
    meanwhile(monkeypatch, *finetune, SR, "--lr", 1e-3)
    done(*finetune, "base", "--lr", 1e-4)
    record = json.loads((cascade / "run.json").read_text())
    assert (record["finetune"]["learning_rate"], record["above"][SR]["learning_rate"]) == (1e-4, 1e-3)
    assert set(record["history"]) == {"optimize", "finetune", f"finetune-{SR}"}
    assert imagic("check", cascade).code == 0


@pytest.mark.parametrize("command", ["optimize", "finetune"])
def test_what_was_changed_meanwhile_is_not_overwritten(
    command: str, cascade: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To a stage A that begins anew any change is one, to stage B what changes its inputs.
    other = ["finetune", "--steps", 1] if command == "optimize" else ["optimize", "--seed", 1, "--force"]
    meanwhile(monkeypatch, *other, "--run", cascade)
    result = imagic(command, "--run", cascade, "--seed", 2, "--force")
    assert (result.code, "another process changed run while" in result.err) == (5, True), result.err
    assert imagic("check", cascade).code == 0
    assert set(json.loads((cascade / "run.json").read_text())["history"]) >= {other[0], "optimize"}
