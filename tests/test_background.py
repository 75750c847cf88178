"""Checkpoints that are written while the steps go on are those that a stop would have waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import done, imagic, stopped

from imagic_cli.artifacts import Progress
from imagic_cli.background import Background
from imagic_cli.container import verify
from imagic_cli.errors import DiskError
from imagic_cli.fit import Step
from imagic_cli.stages import checkpoints, training

FLAGS = ["--steps", 12, "--probe-every", 0]


@pytest.fixture(autouse=True)
def aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and at every step."""
    monkeypatch.setattr(checkpoints, "_ASIDE", ("cpu",))
    monkeypatch.setattr(checkpoints, "_SECONDS", -1.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 0)


@pytest.mark.parametrize("stage", ["optimize", "finetune"])
def test_steps_go_on_while_one_is_written_and_it_is_resumed_bit_for_bit(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    save, steps, seen = Progress.save, threading.Semaphore(0), []

    def slow(progress: Progress, *arguments: object) -> str:
        # Until three more steps are made, which change what is trained.
        for _ in range(3):
            assert steps.acquire(timeout=60)
        seen.append(len(progress.losses))
        return save(progress, *arguments)

    commands = {"optimize": ["optimize", photo, "a bird", "--model", models / "sd"], "finetune": ["finetune"]}
    for run in ("whole", "resumed"):
        if stage == "finetune":
            done(*commands["optimize"], "--run", run, *FLAGS)
    done(*commands[stage], "--run", "whole", *FLAGS)

    fit = training.fit

    def counted(*arguments: object) -> Iterator[Step]:
        try:
            for step in fit(*arguments):
                yield step
                steps.release()
        finally:
            # No step comes any more.
            steps.release(3)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", counted)
        patch.setattr(Progress, "save", slow)
        stopped(8, *commands[stage], "--run", "resumed", *FLAGS)
    # The first is of the first step, though it was written three steps later.
    assert seen[0] == 1 < 4 <= seen[1]
    kept = verify(Path(f"resumed/.progress/{stage}.safetensors"), "progress")
    assert kept.extra["step"] == seen[-1]
    done(*commands[stage], "--run", "resumed", *FLAGS)
    name = {"optimize": "embeddings", "finetune": "weights"}[stage]
    assert Path(f"whole/{name}.safetensors").read_bytes() == Path(f"resumed/{name}.safetensors").read_bytes()
    assert not Path(f"resumed/.progress/{stage}.safetensors").exists()


def test_a_disk_that_refuses_one_is_told_and_the_one_before_is_kept(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, fit, first, written = Progress.save, training.fit, threading.Event(), []

    def full(progress: Progress, path: Path, stamp: object) -> str:
        if written:
            raise DiskError(f"{path}: no space left", "free some space")
        written.append(stamp.extra["step"])
        digest = save(progress, path, stamp)
        first.set()
        return digest

    def waiting(*arguments: object) -> Iterator[Step]:
        for step in fit(*arguments):
            # Else all steps may be made before the first is on the disk.
            assert step.index == 1 or first.wait(60)
            time.sleep(0.01)
            yield step

    command = ["optimize", photo, "a bird", "--model", models / "sd", "--run", "run", *FLAGS]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", full)
        patch.setattr(training, "fit", waiting)
        result = imagic(*command)
    assert (result.code, "no space left" in result.err) == (6, True), result.err
    assert verify(Path("run/.progress/optimize.safetensors"), "progress").extra["step"] == written[0]
    done(*command)


def test_a_stop_saves_anew_what_could_not_be_written_before(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failed = Progress.save, threading.Event()

    def once_full(progress: Progress, *arguments: object) -> str:
        if not failed.is_set():
            failed.set()
            raise DiskError("no space left", "free some space")
        return save(progress, *arguments)

    fit = training.fit

    def interrupted(*arguments: object) -> Iterator[Step]:
        for step in fit(*arguments):
            if step.index == 2:
                # The first was begun after the first step; the stop comes before it is looked at again.
                assert failed.wait(60)
                signal.raise_signal(signal.SIGTERM)
            yield step

    monkeypatch.setattr(Progress, "save", once_full)
    monkeypatch.setattr(training, "fit", interrupted)
    result = imagic("optimize", photo, "a bird", "--model", models / "sd", "--run", "run", *FLAGS)
    assert result.code == 143, result.err
    assert verify(Path("run/.progress/optimize.safetensors"), "progress").extra["step"] == 2


def test_what_fails_in_the_background_is_raised_where_it_is_looked_at() -> None:
    def failing() -> None:
        raise DiskError("full", "")

    with pytest.raises(ValueError, match="first"), Background() as background:
        background.begin(failing)
        raise ValueError("first")
    with Background() as background:
        background.begin(failing)
        with pytest.raises(DiskError):
            background.wait()
        assert not background.busy()
        background.begin(failing)
