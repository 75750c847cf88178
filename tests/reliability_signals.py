"""Group 3: checkpoints change nothing but time, and signals end a command soon, cleanly and with the right code."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drive import fork
from filelock import FileLock, Timeout
from reliability import STAGES, Outcome, ReportProgress, Subject, end, heard, said, spread

from imagic_cli.fit import Step

# What hangs for longer than this never ends.
_HANGS = 60.0


def intervals(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Checkpoint every 1, 3, 7 steps or never: the bytes of the undisturbed run, which saved by time."""
    subject = Subject(folder)
    chosen = spread([(stage, every) for every in (1, 3, 7, 0) for stage in STAGES[:2]], count)
    outcome = Outcome(len(chosen))
    for stage, every in chosen:
        run = subject.begin(stage, folder / "run")
        code = end(*subject.command(stage, run, "--checkpoint-every", every))
        problem = f"unrecoverable: code {code}" if code else subject.compare(stage, run)
        outcome.count(problem, f"{stage} every {every}")
        report_progress(outcome.done)
    return outcome


def at_random(count: int, folder: Path, report_progress: ReportProgress, within: float = _HANGS) -> Outcome:
    """SIGTERM and SIGINT in turn at random times of A, B and C."""
    subject = Subject(folder)
    chance = random.Random(count)
    outcome = Outcome(count)
    longest, late, tried = 0.0, 0, 0
    while outcome.done < count:
        stage, number = STAGES[tried % 3], (signal.SIGTERM, signal.SIGINT)[tried % 2]
        tried += 1
        run = subject.begin(stage, folder / "run")
        err = folder / "stderr"
        pid = _started(*subject.command(stage, run), before=heard(err))
        time.sleep(chance.uniform(0, subject.seconds[stage]))
        made = set(subject.after[stage]) <= {str(path.relative_to(run)) for path in run.rglob("*")}
        os.kill(pid, number)
        code, seconds = _ended(pid)
        if code == 0 and made:
            late += 1
            continue
        longest = max(longest, seconds)
        problem = _stopped(code, number, seconds, within, said(err)) or _locked(run) or subject.finish(stage, run)
        outcome.count(problem, f"{stage}, {number.name} {outcome.done + 1}")
        report_progress(outcome.done)
    outcome.notes.append(
        f"the slowest stop took {longest:.2f} s; {late} more signals came when the work was done already"
    )
    return outcome


def second(count: int, folder: Path, report_progress: ReportProgress, within: float = _HANGS) -> Outcome:
    """The first SIGINT waits for the step in hand, which here would last a minute; the second does not."""
    subject = Subject(folder)
    outcome = Outcome(count)
    for index in range(count):
        stage = STAGES[index % 3]
        run = subject.begin(stage, folder / "run")
        deep = folder / "deep"
        deep.unlink(missing_ok=True)
        pid = _started(*subject.command(stage, run), before=_stuck(deep))
        _until(deep.exists)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        waiting = os.waitpid(pid, os.WNOHANG)[0] == 0
        problem = "" if waiting else f"different: {stage} did not finish the step in hand"
        if waiting:
            os.kill(pid, signal.SIGINT)
            code, seconds = _ended(pid)
            problem = _stopped(code, signal.SIGINT, seconds, within, "")
        outcome.count(problem or _locked(run) or subject.finish(stage, run), f"{stage} {index + 1}")
        report_progress(outcome.done)
    return outcome


def at_start(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Signals to real processes, most of whose time goes into imports."""
    subject = Subject(folder)
    chance = random.Random(count)
    outcome = Outcome(count)
    for index in range(count):
        number = (signal.SIGTERM, signal.SIGINT)[index % 2]
        run = subject.begin("optimize", folder / "run")
        line = [sys.executable, "-m", "imagic_cli", *(str(part) for part in subject.command("optimize", run))]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(chance.uniform(0.3, 5))
            process.send_signal(number)
            err = process.communicate()[1]
        # A shell shows death by a signal that came before we were there to catch it as the same number.
        code = 128 - process.returncode if process.returncode < 0 else process.returncode
        problem = "" if code in {0, 128 + number} else f"different: code {code}: {err}"
        outcome.count(problem or subject.finish("optimize", run), f"{number.name} {index + 1}")
        report_progress(outcome.done)
    return outcome


def _started(*arguments: object, before: Callable[[], object]) -> int:
    """A fork that has begun its command."""
    reader, writer = os.pipe()

    def ready() -> None:
        before()
        os.write(writer, b"x")

    pid = fork(*arguments, before=ready)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def _ended(pid: int) -> tuple[int, float]:
    """How a process ended, and how long it took; one that hangs is killed."""
    begun = time.monotonic()
    while time.monotonic() - begun < _HANGS:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), time.monotonic() - begun
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL, time.monotonic() - begun


def _stopped(code: int, number: signal.Signals, seconds: float, within: float, told: str) -> str:
    if code != 128 + number:
        return f"different: code {code}, not {128 + number}: {told!r}"
    if told and not told.splitlines()[-1].startswith("imagic: stopped"):
        return f"different: it says {told!r}"
    return f"different: it took {seconds:.2f} s" if seconds > within else ""


def _locked(run: Path) -> str:
    if not run.exists():
        return ""
    try:
        with FileLock(run / ".lock", blocking=False):
            return ""
    except Timeout:
        return "different: the lock is still held"


def _stuck(mark: Path) -> Callable[[], None]:
    """For a fork's `before`: the third step, or the second image, never ends."""

    def hang() -> None:
        mark.touch()
        time.sleep(_HANGS)

    def before() -> None:
        from imagic_cli.stages import generate, training

        real, draw, made = training.fit, generate.Pictures.draw, [0]

        def fit(*arguments: object, **options: object) -> Iterator[Step]:
            for step in real(*arguments, **options):
                if step.index == 3:
                    hang()
                yield step

        def drawn(*arguments: object) -> None:
            made[0] += 1
            if made[0] == 2:
                hang()
            draw(*arguments)

        training.fit, generate.Pictures.draw = fit, drawn

    return before


def _until(there: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not there() and time.monotonic() - begun < _HANGS:
        with contextlib.suppress(InterruptedError):
            time.sleep(0.01)
