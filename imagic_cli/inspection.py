"""Look at a run without working on it: what is done, what is stale, what can go."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from imagic_cli import files
from imagic_cli.config import SamplingSettings
from imagic_cli.container import corrupt, peek
from imagic_cli.errors import ArtifactError
from imagic_cli.names import BASE, part, plural, typed
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stamps import Stamp

Condition = Literal["done", "stale", "resumable", "missing", "damaged"]


@dataclass(frozen=True)
class State:
    """How far one stage is.

    Attributes:
        stage: optimize, finetune (with the level's name behind it), or generate (with the variant's).
        condition: what it is.
        detail: why it is stale or damaged, or where it resumes.
        size: bytes of its files.
        path: its result.
        command: what brings it up to date.
    """

    stage: str
    condition: Condition
    detail: str
    size: int
    path: Path
    command: str


def states(run: Run, record: Record | None = None) -> list[State]:
    """Every stage of a run, from the headers of its files; no tensor is read.

    Args:
        run: whose.
        record: the settings that it is held against; else those that it recorded.

    Raises:
        ArtifactError: there is no run.
    """
    record = record or run.read_record()
    embeddings, digest = _trained(run, "optimize", BASE, run.embeddings_file, record.optimize_stamp())
    first = _against_image(run, embeddings)
    tuned, digests = {}, {}
    for level in record.levels():
        wanted = record.finetune_stamp(digest, level)
        state, digests[level] = _trained(run, "finetune", level, run.weights_file(level), wanted)
        tuned[level] = _after(state, first) if "embeddings" in wanted.inputs else state
    sampled = [_sampled(run, record, variant, digest, digests, first, tuned) for variant in variants(run)]
    return [first, *tuned.values(), *sampled]


def suggestion(found: list[State], run: Run) -> str:
    """What to type next, as a shell takes it."""
    place = shlex.quote(str(run.path))
    variants = [state for state in found if state.stage.startswith("generate ")]
    sampled = any(state.condition == "done" for state in variants)
    for state in found[: len(found) - len(variants)]:
        if state.condition != "done" and not (state.stage == "generate" and state.condition == "missing" and sampled):
            return f"imagic {state.command} --run {place}"
    return f"imagic generate --eta 0.6:0.8:0.05 --seeds 8 --run {place}"


def clean(run: Run) -> list[Path]:
    """Remove progress, cached texts and leftovers of killed processes, also of the runs within; returns what went.

    Raises:
        ArtifactError: there is no run.
        LockedError: another process holds it, or one within; nothing is removed.
    """
    run.read_record()
    with contextlib.ExitStack() as held:
        runs = [run, *run.inner()]
        for each in runs:
            held.enter_context(each.locked())
        folders = [folder for each in runs for folder in each.folders() if folder.name in {".progress", "texts"}]
        gone = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
        for path in gone:
            files.remove(path)
    return gone


def _trained(run: Run, stage: str, level: str, path: Path, wanted: Stamp) -> tuple[State, str]:
    progress, name, command = run.progress_file(stage, level), part(stage, level), typed(stage, level)
    again = f"{command} --force"
    size = sum(each.stat().st_size for each in (path, progress) if each.exists())
    try:
        if path.exists():
            stamp, digest = peek(path, wanted.kind)
            if stamp.key == wanted.key:
                return State(name, "done", "", size, path, again), digest
            if not progress.exists():
                return State(name, "stale", ", ".join(stamp.differences(wanted)), size, path, again), digest
        if progress.exists():
            stamp, _digest = peek(progress, "progress")
            if stamp.key == wanted.key:
                made = f"at step {stamp.extra.get('step')} of {stamp.settings.get('steps')}"
                return State(name, "resumable", made, size, progress, again if path.exists() else command), ""
            return State(name, "stale", ", ".join(stamp.differences(wanted)), size, progress, again), ""
    except ArtifactError as error:
        return State(name, "damaged", str(error), size, path, again), ""
    return State(name, "missing", "", size, path, command), ""


def _against_image(run: Run, state: State) -> State:
    if state.condition != "done":
        return state
    try:
        run.read_image()
    except ArtifactError as error:
        return replace(state, condition="stale", detail=str(error))
    return state


def _after(state: State, before: State) -> State:
    if state.condition == "done" and before.condition != "done":
        return replace(state, condition="stale", detail=f"{before.stage} is {before.condition}")
    return state


def _sampled(
    run: Run,
    record: Record,
    variant: str,
    embeddings: str,
    weights: Mapping[str, str],
    first: State,
    tuned: Mapping[str, State],
) -> State:
    folder = run.sample_folder(variant)
    name = f"generate {variant}".strip()
    path, again = folder / "samples.safetensors", "generate --force"
    images = sorted((folder / "images").glob("eta-*.png"))
    size = sum(each.stat().st_size for each in [*images, path] if each.exists())
    if not path.exists():
        return State(name, "missing", "", size, path, "generate")
    try:
        stamp, _digest = peek(path, "samples")
        sampling = sampling_of(path, stamp) if variant else record.generate
    except ArtifactError as error:
        return State(name, "damaged", str(error), size, path, again)
    used = [] if sampling.pretrained else record.levels(sampling.size)
    # A level that was never tuned has its part in the pictures as it is; a change that was discarded made them all the
    # same.
    known = {level: weights[level] for level in used if run.weights_file(level).exists()}
    gone = {level: stamp.inputs.get(part("weights", level), "none") for level in used if level not in known}
    changed = stamp.differences(record.generate_stamp(sampling, embeddings, known | gone))
    upstream = [first, *(tuned[level] for level in known)]
    changed += [f"{state.stage} is {state.condition}" for state in upstream if state.condition != "done"]
    condition: Condition = "stale" if changed else "done"
    return State(name, condition, ", ".join(changed) or plural(len(images), "image"), size, path, again)


def sampling_of(path: Path, stamp: Stamp) -> SamplingSettings:
    """How the samples at `path`, with this stamp, were sampled.

    Raises:
        ArtifactError: its settings are none.
    """
    settings = {name: value for name, value in stamp.settings.items() if name not in {"width", "height"}}
    try:
        return SamplingSettings.model_validate(settings)
    except ValidationError as error:
        raise corrupt(path) from error


def variants(run: Run) -> list[str]:
    """The ways of sampling that a run has a folder of: its own, which is '', and then every other."""
    return ["", *sorted(path.name for path in (run.path / "variants").glob("*") if path.is_dir())]
