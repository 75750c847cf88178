"""Group 10: of many processes that start one run, one works and the others leave, naming it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drive import digests, fork, kill
from reliability import Outcome, ReportProgress, Subject, compared, end, leftovers

# Imported before the forks, and not in each of them.
from imagic_cli.backends import stable_diffusion  # noqa: F401
from imagic_cli.run import Run
from imagic_cli.stages import optimize

_LOCKED = 5
_PATIENCE = 120.0


def contention(
    count: int, folder: Path, report_progress: ReportProgress, processes: int = 50, within: float | None = None
) -> Outcome:
    """Group 10: `count` rounds; with `within`, the losers must be gone so many seconds after they tried the lock."""
    subject = Subject(folder, steps=3, images=1)
    outcome = Outcome(count)
    slowest = 0.0
    for number in range(count):
        problem, seconds = _round(subject, folder, processes)
        slowest = max(slowest, seconds)
        if not problem and within is not None and seconds > within:
            problem = f"different: a process left {seconds:.2f} s after it tried the lock"
        outcome.count(problem, f"round {number + 1}")
        report_progress(outcome.done)
    outcome.notes.append(f"{processes} processes a round")
    if within is not None:
        outcome.notes.append(f"the slowest of those that lost left {slowest:.2f} s after it tried the lock")
    return outcome


def _round(subject: Subject, folder: Path, processes: int) -> tuple[str, float]:
    run, said = subject.begin("optimize", folder / "contended"), folder / "said"
    shutil.rmtree(said, ignore_errors=True)
    said.mkdir()
    gate = os.pipe()
    pids = [fork(*subject.command("optimize", run), before=_racer(said, gate)) for _ in range(processes)]
    os.close(gate[0])
    # All of them wait for this.
    os.close(gate[1])
    holder, codes = _all_but_one(pids)
    try:
        if holder is None:
            return f"different: codes {sorted(set(codes.values()))}, and nobody holds the run", 0.0
        wrong = {pid: code for pid, code in codes.items() if code != _LOCKED}
        strange = [pid for pid in codes if f"process {holder};" not in _text(said / f"{pid}.err")]
        seconds = max((float(_text(said / f"{pid}.seconds") or "inf") for pid in codes), default=0.0)
    finally:
        for pid in [holder] if holder else []:
            kill(pid)
    if wrong:
        return f"different: codes {sorted(set(wrong.values()))} beside {_LOCKED}", seconds
    if strange:
        return f"different: {len(strange)} did not name the holder: {_text(said / f'{strange[0]}.err')!r}", seconds
    code = end(*subject.command("optimize", run))
    if code:
        return f"unrecoverable: after the holder's kill -9 the next start ends with {code}", seconds
    return compared(subject.after["optimize"], digests(run)) or leftovers(run), seconds


def _racer(said: Path, gate: tuple[int, int]) -> Callable[[], None]:
    def before() -> None:

        real = Run.locked

        def locked(run: Run) -> object:
            began = time.monotonic()
            (said / f"{os.getpid()}.seconds").write_text("")

            class Timed:
                def __enter__(self) -> None:
                    self.inner = real(run)
                    try:
                        self.inner.__enter__()
                    finally:
                        (said / f"{os.getpid()}.seconds").write_text(str(time.monotonic() - began))

                def __exit__(self, *error: object) -> object:
                    return self.inner.__exit__(*error)

            return Timed()

        def hold(*_arguments: object) -> None:
            while True:
                signal.pause()

        Run.locked = locked
        optimize._train = hold
        sys.stderr = (said / f"{os.getpid()}.err").open("w", buffering=1)
        os.close(gate[1])
        os.read(gate[0], 1)

    return before


def _all_but_one(pids: list[int]) -> tuple[int | None, dict[int, int]]:
    """The pid of the one that stays, and how the others ended."""
    codes: dict[int, int] = {}
    left = set(pids)
    until = time.monotonic() + _PATIENCE
    while len(left) > 1 and time.monotonic() < until:
        for pid in sorted(left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                left.discard(pid)
        time.sleep(0.005)
    for pid in sorted(left)[1:]:
        kill(pid)
        codes[pid] = -signal.SIGKILL
    return (min(left) if left else None), codes


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
