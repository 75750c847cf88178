"""Groups 1, 2 and 4: whatever kills a command, typing it again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from drive import digests, fork, fresh, wait
from reliability import Outcome, ReportProgress, Subject, compared, die, end, heard, leftovers, said, spread

from imagic_cli.fit import Step


def kills_at_steps(
    count: int, folder: Path, report_progress: ReportProgress, kind: type[Subject] = Subject, moments: int = 30
) -> Outcome:
    """Group 1: kill -9 after step k of A or B, or after image k of C with and without its samples saved."""
    subject = kind(folder, steps=moments)
    steps, images = range(1, subject.steps + 1), range(1, subject.images + 1)
    cases = [(stage, step, "") for stage in subject.stages[:-1] for step in steps]
    cases += [("generate", image, kept) for image in images for kept in ("samples saved", "samples not saved")]
    return _killed(subject, spread(cases, count), folder, report_progress)


def lora_kills_at_steps(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 1, of LoRA: kill -9 after step k of B."""
    flags = {"optimize": ["--probe-every", 30], "finetune": ["--probe-every", 30, "--method", "lora", "--rank", 2]}
    subject = Subject(folder, flags=flags)
    cases = [("finetune", step, "") for step in range(1, subject.steps + 1)]
    return _killed(subject, spread(cases, count), folder, report_progress)


def _killed(
    subject: Subject, chosen: list[tuple[str, int, str]], folder: Path, report_progress: ReportProgress
) -> Outcome:
    outcome = Outcome(len(chosen))
    for stage, number, kept in chosen:
        run = subject.begin(stage, folder / "run")
        before = _die_after_image(number, kept == "samples saved") if kept else die_after_step(number)
        # Every fourth step, so that most kills lose some.
        extra = [] if kept else ["--checkpoint-every", 4]
        code = end(*subject.command(stage, run, *extra), before=before)
        problem = subject.finish(stage, run) if code == -signal.SIGKILL else f"different: no kill, but code {code}"
        outcome.count(problem, f"{stage} {number} {kept}".strip())
        report_progress(outcome.done)
    return outcome


def kills_at_random(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 2: kill -9 at random times of A and B in turn; half of the recoveries are killed too."""
    subject = Subject(folder)
    chance = random.Random(count)
    outcome = Outcome(count)
    runs = commits = recoveries = 0
    while outcome.done < count:
        stage = ("optimize", "finetune")[runs % 2]
        runs += 1
        run = subject.begin(stage, folder / "run")
        kills = []
        while True:
            pid = fork(*subject.command(stage, run, "--checkpoint-every", 1))
            # Checkpoints make it slower than the undisturbed one.
            time.sleep(chance.uniform(0, 1.5 * subject.seconds[stage]))
            os.kill(pid, signal.SIGKILL)
            if wait(pid) != -signal.SIGKILL:
                break
            recoveries += bool(kills)
            kills.append("kill")
            commits += bool(leftovers(run))
            if chance.random() < 0.5:
                break
        problem = subject.finish(stage, run)
        for kill in kills:
            outcome.count(problem, f"{stage}, {kill} {outcome.done + 1}")
        report_progress(outcome.done)
    outcome.notes.append(
        f"{runs} runs; {recoveries} kills hit a run that was recovering from another, {commits} hit a commit"
    )
    return outcome


def seeds(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 4, first half: every artifact again in fresh processes with other hash seeds, and with another seed."""
    subject = Subject(folder, steps=3, images=2)
    cases: list[tuple[str, Callable[[], str]]] = [
        ("other seed", lambda: _other_seed(subject, folder)),
        ("fresh processes", lambda: _again(subject, folder, "1")),
        ("fresh processes", lambda: _again(subject, folder, "2")),
        ("other place", lambda: _again(subject, folder / "another" / "place", "3")),
    ]
    chosen = cases[:count]
    outcome = Outcome(len(chosen))
    for name, work in chosen:
        outcome.count(work(), name)
        report_progress(outcome.done)
    return outcome


def elsewhere(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 4, second half: another thread count, torch version or device on resume."""
    subject = Subject(folder)
    cases = [
        (stage, name, strict)
        for name in ("threads", "torch", "device", "processor")
        for stage in ("optimize", "finetune")
        for strict in (True, False)
    ]
    chosen = spread(cases, count)
    outcome = Outcome(len(chosen))
    for stage, name, strict in chosen:
        run = subject.begin(stage, folder / "run")
        end(*subject.command(stage, run, "--checkpoint-every", 4), before=die_after_step(10))
        outcome.count(_resumed_elsewhere(subject, stage, run, name, strict), f"{stage} {name} strict={strict}")
        report_progress(outcome.done)
    return outcome


def die_after_step(number: int) -> Callable[[], None]:
    """For a fork's `before`: kill -9 when step `number` is made, logged and, where it is due, saved."""

    def before() -> None:
        from imagic_cli.stages import training

        real = training.fit

        def fit(*arguments: object, **options: object) -> Iterator[Step]:
            for step in real(*arguments, **options):
                yield step
                if step.index == number:
                    die()

        training.fit = fit

    return before


def _die_after_image(number: int, saved: bool) -> Callable[[], None]:
    def before() -> None:
        from imagic_cli.stages import generate

        real, made = generate.Pictures.draw, [0]
        if saved:
            generate._SAVE_SECONDS = -1.0

        def draw(*arguments: object) -> None:
            real(*arguments)
            made[0] += 1
            if made[0] == number:
                die()

        generate.Pictures.draw = draw

    return before


def _again(subject: Subject, folder: Path, hash_seed: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    run = subject.begin("optimize", folder / "run")
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    for stage in ("optimize", "finetune", "generate"):
        made = fresh(*subject.command(stage, run), env=environment, cwd=folder)
        if made.code:
            return f"unrecoverable: {stage} ends with code {made.code}: {made.err}"
    return subject.compare("generate", run)


def _other_seed(subject: Subject, folder: Path) -> str:
    found = []
    for stage, artifact in (
        ("optimize", "embeddings.safetensors"),
        ("finetune", "weights.safetensors"),
        ("generate", "eta-0.500_seed-0000.png"),
    ):
        run = subject.begin(stage, folder / "run")
        if end(*subject.command(stage, run, "--seed", 1)):
            return f"unrecoverable: {stage} --seed 1"
        usual = {Path(name).name: digest for name, digest in subject.after[stage].items()}
        other = {Path(name).name: digest for name, digest in digests(run).items()}
        if other[artifact.replace("0000", "0001")] == usual[artifact]:
            found.append(artifact)
    return f"different: {', '.join(found)} do not depend on the seed" if found else ""


def _resumed_elsewhere(subject: Subject, stage: str, run: Path, name: str, strict: bool) -> str:
    err = run.parent / "stderr"

    def move() -> None:
        if name == "threads":
            torch.set_num_threads(2)
            return
        from imagic_cli.stages import checkpoints

        real = checkpoints.environment
        checkpoints.environment = lambda device: real(device) | {name: "another"}

    kept = digests(run)
    strictly = ["--strict"] if strict else []
    code = end(*subject.command(stage, run, *strictly), before=heard(err, move))
    told = said(err)
    if name not in told or "->" not in told:
        return f"different: nothing is said of {name}: {told!r}"
    if strict:
        return compared(kept, digests(run)) or ("" if code == 4 else f"different: code {code}, not 4")
    if code or "warning" not in told:
        return f"different: code {code}, {told!r}"
    # Two threads may change the last bits, which is what was warned of.
    return "" if name == "threads" else subject.compare(stage, run)
