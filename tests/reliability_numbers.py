"""Group 14: numbers that stop being finite, memory that runs out, and memory that grows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from drive import digests
from reliability import Outcome, ReportProgress, Subject, end, heard, said, spread
from torch import Tensor

from imagic_cli.artifacts import Progress
from imagic_cli.backends.latent import LatentBackend, LatentCodec
from imagic_cli.container import verify
from imagic_cli.fit import Step
from imagic_cli.updates import Updates, _Part

_EVERY = 4
_SAVING = {"optimize": "--gradient-checkpointing", "finetune": "--optimizer adam8bit", "generate": "--batch-size"}
_MOST_GROWTH = 0.01


def not_finite(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """NaN and Inf in loss, gradient, weight or moment at step k of A and B, and in a sample of C."""
    subject = Subject(folder)
    cases: list[tuple[str, str, float, int]] = [
        (stage, where, value, step)
        for stage in ("optimize", "finetune")
        for where in ("loss", "gradient", "weight", "moment")
        for value in (float("nan"), float("inf"), float("-inf"))
        for step in (1, 6, 8, 30)
        # A moment after the last step changes nothing any more.
        if (where, step) != ("moment", 30)
    ]
    cases += [("generate", "sample", value, image) for value in (float("nan"), float("inf")) for image in (1, 3)]
    chosen = spread(cases, count)
    outcome = Outcome(len(chosen))
    for stage, where, value, step in chosen:
        problem = _poisoned(subject, stage, where, value, step, folder)
        outcome.count(problem, f"{stage}: {value} in {where} at {step}")
        report_progress(outcome.done)
    return outcome


def out_of_memory(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Each kind of allocation failure in each part of each stage."""
    subject = Subject(folder)
    training = ("loading", "codec", "level", "step 1", "step 10", "backward", "probe")
    places = [("optimize", part) for part in (*training, "encode")]
    places += [("finetune", part) for part in training]
    places += [("generate", part) for part in ("loading", "codec", "level", "render", "second render", "decode")]
    kinds = ("torch on the CPU", "torch on CUDA", "Python")
    chosen = spread([(*place, kind) for place in places for kind in kinds], count)
    outcome = Outcome(len(chosen))
    for stage, part, kind in chosen:
        outcome.count(_short(subject, stage, part, kind, folder), f"{stage}: {kind} in {part}")
        report_progress(outcome.done)
    return outcome


def soak(count: int, folder: Path, report_progress: ReportProgress, steps: int = 60) -> Outcome:
    """The memory of a long A and a long B, between a fifth of the way and the end."""
    subject = Subject(folder, steps=steps, images=1, flags=_SOAKED)
    outcome = Outcome(count)
    for stage in ("optimize", "finetune")[:count]:
        run, sizes = subject.begin(stage, folder / "run"), folder / "sizes"
        code = end(*subject.command(stage, run), before=_weighed(sizes))
        found = [int(line) for line in sizes.read_text().split()]
        early, late = found[steps // 5 - 1], found[-1]
        growth = (late - early) / early
        problem = f"unrecoverable: code {code}" if code else ""
        if growth >= _MOST_GROWTH:
            problem = problem or f"different: memory grew by {growth:.2%}"
        outcome.count(problem, stage)
        outcome.notes.append(f"{stage}: {growth:+.2%} from step {steps // 5} to {steps}, at {late >> 20} MiB")
        report_progress(outcome.done)
    return outcome


_SOAKED = {stage: ["--probe-every", 50, "--checkpoint-every", 50] for stage in ("optimize", "finetune")}


def _poisoned(subject: Subject, stage: str, where: str, value: float, step: int, folder: Path) -> str:
    run, err = subject.begin(stage, folder / "run"), folder / "stderr"
    extra = [] if stage == "generate" else ["--checkpoint-every", _EVERY]
    code = end(*subject.command(stage, run, *extra), before=heard(err, _poison(stage, where, value, step)))
    told = said(err)
    if code != 7:
        return f"different: code {code}: {told}"
    named = {"generate": f"eta 0.{4 + step}00"}.get(stage, f"step {step}")
    if where == "moment":
        # It spoils a weight one step later, unless a checkpoint comes before.
        named = f"step ({step}|{step + 1})"
    if not re.search(rf"\b{named}\b", told):
        return f"different: {named} is not named: {told}"
    kept = run / ".progress" / f"{stage}.safetensors"
    # What was checked and refused leaves the state before it; what was changed behind the loop's back, the last save.
    good = step - 1 if where in {"loss", "gradient"} else (step - 1) // _EVERY * _EVERY
    if stage != "generate" and good:
        step = verify(kept, "progress").extra["step"]
        if step != good or not all(value.isfinite().all() for part, _, value in Progress.each(kept) if part == "leaf"):
            return f"different: step {step} is kept, not {good}"
    return subject.finish(stage, run)


def _poison(stage: str, where: str, value: float, step: int) -> Callable[[], None]:
    def before() -> None:
        from imagic_cli.stages import training

        if stage == "generate":
            render, images = LatentBackend.render, [0]

            def rendered(*arguments: object) -> Tensor:
                images[0] += 1
                made = render(*arguments)
                return made * value if images[0] == step else made

            LatentBackend.render = rendered
            return
        if where in {"loss", "gradient"}:

            def spoiled(found: Tensor) -> Tensor:
                return found * value

            _at_step(step, *((spoiled, _as_it_is) if where == "loss" else (_as_it_is, spoiled)))
            return
        real = training.fit

        def fit(updates: Updates, *arguments: object) -> Iterator[Step]:
            for each in real(updates, *arguments):
                if each.index == step:
                    leaf = next(iter(updates.parts[0].leaves))
                    spoiled = leaf if where == "weight" else updates.state(leaf)["exp_avg"]
                    with torch.no_grad():
                        spoiled.view(-1)[0] = value
                yield each

        training.fit = fit

    return before


def _at_step(step: int, loss: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor]) -> None:
    """Change a step's loss before it is looked at, and its gradients as an optimizer is about to have them."""
    begin, take, calls = Updates.begin, _Part.take_gradients, [0]

    def begun(updates: Updates, found: Tensor) -> None:
        calls[0] += 1
        begin(updates, loss(found) if calls[0] == step else found)

    def taken(part: _Part) -> list[Tensor]:
        gradients = take(part)
        if calls[0] == step:
            # A replayed step's can be changed in that mode alone.
            with torch.inference_mode():
                for each in gradients:
                    each.copy_(gradient(each))
        return gradients

    Updates.begin, _Part.take_gradients = begun, taken


def _as_it_is(found: Tensor) -> Tensor:
    return found


def _short(subject: Subject, stage: str, part: str, kind: str, folder: Path) -> str:
    run, err = subject.begin(stage, folder / "run"), folder / "stderr"
    extra = [] if stage == "generate" else ["--checkpoint-every", _EVERY]
    code = end(*subject.command(stage, run, *extra), before=heard(err, lambda: _run_short(part, kind)))
    told = said(err)
    if code != 8 or _SAVING[stage] not in told or "out of memory" not in told:
        return f"different: code {code}: {told}"
    if part in {"step 10", "backward"} and not any("progress" in name for name in digests(run)):
        return "different: no progress is kept"
    return subject.finish(stage, run)


def _run_short(part: str, kind: str) -> None:
    from imagic_cli.stages import training

    if part == "backward":

        def fail_with(_gradient: Tensor) -> Tensor:
            raise _failure(kind)

        _at_step(10, _as_it_is, fail_with)
        return
    place, name, call = {
        "loading": (AutoencoderKL, "from_pretrained", 1),
        "codec": (LatentBackend, "codec", 1),
        "encode": (LatentBackend, "encode", 1),
        "level": (LatentBackend, "level", 1),
        "step 1": (training, "denoising_loss", 1),
        "step 10": (Updates, "begin", 10),
        "probe": (training, "probe_loss", 2),
        "render": (LatentBackend, "render", 1),
        "second render": (LatentBackend, "render", 2),
        "decode": (LatentCodec, "decode", 2),
    }[part]
    real, calls = getattr(place, name), [0]

    def fail(*arguments: object, **options: object) -> object:
        calls[0] += 1
        if calls[0] == call:
            raise _failure(kind)
        return real(*arguments, **options)

    setattr(place, name, fail)


def _weighed(sizes: Path) -> Callable[[], None]:
    """For a fork's `before`: the resident bytes after each step go to `sizes`."""

    def before() -> None:
        from imagic_cli.stages import training

        real, page = training.fit, os.sysconf("SC_PAGE_SIZE")

        def fit(*arguments: object) -> Iterator[Step]:
            with sizes.open("w") as file:
                for step in real(*arguments):
                    yield step
                    resident = int(Path("/proc/self/statm").read_text().split()[1])
                    file.write(f"{resident * page}\n")

        training.fit = fit

    return before


def _failure(kind: str) -> Exception:
    if kind == "Python":
        return MemoryError()
    if kind == "torch on CUDA":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    try:
        torch.empty(1 << 50, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("this machine has a petabyte of memory")
