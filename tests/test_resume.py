"""Samples of groups 1 to 4; `make torture` runs them in full."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import reliability_resume as resume
import reliability_signals as signals
from drive import digests, fork, wait
from reliability import Cascade, Routine, Subject, compared

from imagic_cli.artifacts import Embeddings, Weights
from imagic_cli.backends.latent import LatentBackend
from imagic_cli.run import Run

SAMPLES = [
    (resume.kills_at_steps, 5),
    (resume.lora_kills_at_steps, 3),
    (functools.partial(resume.kills_at_steps, kind=Cascade, moments=6), 8),
    (resume.kills_at_random, 3),
    (resume.seeds, 1),
    (resume.elsewhere, 3),
    (signals.intervals, 1),
    (signals.at_random, 3),
    (signals.second, 2),
]


@pytest.mark.parametrize(("routine", "count"), SAMPLES, ids=lambda each: getattr(each, "__name__", "cascade"))
def test_a_disturbed_run_ends_in_the_same_bytes(disturbed: Path, routine: Routine, count: int) -> None:
    outcome = routine(count, disturbed, lambda done: None)
    assert outcome.passed, outcome


@pytest.mark.parametrize("instead", [OSError("cannot be loaded"), None], ids=["another error", "none"])
def test_a_signal_whose_exception_a_library_swallows_still_ends_the_command(
    disturbed: Path, instead: Exception | None
) -> None:
    def before() -> None:
        real = LatentBackend.codec

        def codec(*arguments: object) -> object:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                return real(*arguments)
            except BaseException:
                if instead:
                    raise instead from None
                return real(*arguments)

        LatentBackend.codec = codec

    subject = Subject(disturbed)
    run = subject.begin("optimize", disturbed / "run")
    assert wait(fork(*subject.command("optimize", run), before=before)) == 143
    assert not subject.finish("optimize", run)


@pytest.mark.parametrize(("stage", "kind"), [("optimize", Embeddings), ("finetune", Weights)])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_signal_after_the_last_step_waits_for_the_result(
    disturbed: Path, stage: str, kind: type[Embeddings | Weights], twice: bool
) -> None:
    def before() -> None:
        real = kind.save

        def save(*arguments: object) -> str:
            os.kill(os.getpid(), signal.SIGINT)
            if twice:
                os.kill(os.getpid(), signal.SIGINT)
            return real(*arguments)

        kind.save = save

    subject = Subject(disturbed)
    run = subject.begin(stage, disturbed / "run")
    assert wait(fork(*subject.command(stage, run), before=before)) == 130
    found = compared(subject.after[stage], digests(run))
    assert (found == "") is not twice
    assert (stage in Run(run).read_record().history) is not twice
    assert not subject.finish(stage, run)


def test_a_signal_after_the_work_ends_the_process_without_a_word() -> None:
    script = (
        "import atexit, signal, sys; from imagic_cli.cli import main; sys.argv = ['imagic', '--version'];"
        "atexit.register(lambda: signal.raise_signal(signal.SIGTERM)); main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")
