"""Group 10, a sample: one process works in a run, the others leave and name it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from drive import imagic
from reliability_locks import contention

from imagic_cli.errors import LockedError
from imagic_cli.run import Run


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
    import specimen

    run = specimen.copy(specimen.make(tmp_path_factory.getbasetemp()), tmp_path / "run")
    progress = run / ".progress" / "finetune.safetensors"
    script = (
        "import sys, time; from imagic_cli.run import Run; from pathlib import Path\n"
        "with Run(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, run], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = imagic("clean", run)
        assert (result.code, f"process {holder.pid};" in result.err) == (5, True), result.err
        assert progress.exists()
    finally:
        holder.kill()
        holder.communicate()
    assert imagic("clean", run).code == 0
    assert not progress.exists()
