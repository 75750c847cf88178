"""Look at a run without working on it: what is done, what is stale, what is damaged, what can go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from imagic_cli import files, photo, png
from imagic_cli.artifacts import peek, read
from imagic_cli.errors import ArtifactError, ImagicError, InputError
from imagic_cli.image import pixels_digest
from imagic_cli.run import Record, Run
from imagic_cli.stamps import Stamp

Condition = Literal["done", "stale", "resumable", "missing", "damaged"]


@dataclass(frozen=True)
class State:
    """How far one stage is.

    Attributes:
        stage: optimize, finetune, or generate (with the variant's name behind it).
        condition: what it is.
        detail: why it is stale or damaged, or where it resumes.
        size: bytes of its files.
    """

    stage: str
    condition: Condition
    detail: str
    size: int


def states(run: Run) -> list[State]:
    """Every stage of a run, from the headers of its files; no tensor is read.

    Raises:
        ArtifactError: there is no run.
    """
    record = run.read_record()
    embeddings, embeddings_digest = _trained(run, "optimize", run.embeddings_file, record.optimize_stamp())
    found = [_against_image(run, embeddings)]
    weights, weights_digest = _trained(run, "finetune", run.weights_file, record.finetune_stamp(embeddings_digest))
    found.append(_after(weights, found[0]))
    for variant in _variants(run):
        found.append(_sampled(run, variant, embeddings_digest, weights_digest))
    return found


def suggestion(found: list[State], run: Run) -> str:
    """What to type next."""
    for state, command in zip(found, ("optimize", "finetune", "generate"), strict=False):
        if state.condition == "resumable" or state.condition == "missing":
            return f"imagic {command} --run {run.path}"
        if state.condition in {"stale", "damaged"}:
            return f"imagic {command} --force --run {run.path}"
    return f"imagic generate --eta 0.6:0.8:0.05 --seeds 8 --run {run.path}"


def problems(run: Run) -> list[str]:
    """What is not as it was written: every artifact, image and record read whole, and every link between them.

    Raises:
        ArtifactError: there is no readable run.json to check against.
    """
    record = run.read_record()
    found = [str(problem) for problem in _artifact_problems(run, record)]
    found += [
        f"{run.path}: {state.stage} is stale ({state.detail})" for state in states(run) if state.condition == "stale"
    ]
    for variant in _variants(run):
        folder = run.sample_folder(variant) / "images"
        found += [
            str(problem) for path in sorted(folder.glob("eta-*.png")) for problem in _failures(_verify_image, path)
        ]
    return found


def clean(run: Run) -> list[Path]:
    """Remove progress, cached texts and leftovers of killed processes; returns what went."""
    with run.locked():
        gone = [path for name in (".progress", "texts") for path in sorted((run.path / name).glob("*.safetensors"))]
        for path in gone:
            files.remove(path)
    return gone


def _trained(run: Run, stage: str, path: Path, wanted: Stamp) -> tuple[State, str]:
    progress = run.progress_file(stage)
    size = sum(each.stat().st_size for each in (path, progress) if each.exists())
    try:
        if path.exists():
            stamp, digest = peek(path, wanted.kind)
            if stamp.key == wanted.key:
                return State(stage, "done", "", size), digest
            if not progress.exists():
                return State(stage, "stale", ", ".join(stamp.differences(wanted)), size), digest
        if progress.exists():
            stamp, _digest = peek(progress, "progress")
            if stamp.key == wanted.key:
                return State(
                    stage, "resumable", f"at step {stamp.extra['step']} of {stamp.settings['steps']}", size
                ), ""
            return State(stage, "stale", ", ".join(stamp.differences(wanted)), size), ""
    except ArtifactError as error:
        return State(stage, "damaged", str(error), size), ""
    return State(stage, "missing", "", size), ""


def _against_image(run: Run, state: State) -> State:
    if state.condition != "done":
        return state
    try:
        run.read_image()
    except ArtifactError as error:
        return State(state.stage, "stale", str(error), state.size)
    return state


def _after(state: State, before: State) -> State:
    if state.condition == "done" and before.condition != "done":
        return State(state.stage, "stale", f"{before.stage} is {before.condition}", state.size)
    return state


def _sampled(run: Run, variant: str, embeddings: str, weights: str) -> State:
    folder = run.sample_folder(variant)
    name = f"generate {variant}".strip()
    path = folder / "samples.safetensors"
    images = sorted((folder / "images").glob("eta-*.png"))
    size = sum(each.stat().st_size for each in [*images, path] if each.exists())
    if not path.exists():
        return State(name, "missing", "", size)
    try:
        stamp, _digest = peek(path, "samples")
    except ArtifactError as error:
        return State(name, "damaged", str(error), size)
    current = {"embeddings": embeddings, "weights": "none" if stamp.settings["pretrained"] else weights}
    changed = [f"{part} changed" for part, digest in current.items() if stamp.inputs[part] != digest]
    return State(name, "stale" if changed else "done", ", ".join(changed) or f"{len(images)} images", size)


def _variants(run: Run) -> list[str]:
    return ["", *sorted(path.name for path in (run.path / "variants").glob("*") if path.is_dir())]


def _artifact_problems(run: Run, record: Record) -> Iterator[ImagicError]:
    yield from _failures(run.read_image)
    files_of = {run.embeddings_file: "embeddings", run.weights_file: "weights"}
    files_of |= dict.fromkeys(sorted((run.path / ".progress").glob("*.safetensors")), "progress")
    files_of |= dict.fromkeys(sorted((run.path / "texts").glob("*.safetensors")), "text")
    files_of |= {run.sample_folder(variant) / "samples.safetensors": "samples" for variant in _variants(run)}
    for path, kind in files_of.items():
        if path.exists():
            yield from _failures(read, path, kind)


def _verify_image(path: Path) -> None:
    beside = path.with_suffix(".json")
    record = png.read_record(path)
    try:
        described = json.loads(beside.read_bytes())
        if described != record | {"pixels": pixels_digest(Image.fromarray(photo.read(path).pixels))}:
            raise ValueError("record")
    except (ValueError, RecursionError, OSError) as error:
        raise ArtifactError(
            f"{path} and {beside.name} do not belong together", "remove both and generate again"
        ) from error


def _failures(look: Callable[..., object], *arguments: object) -> Iterator[ImagicError]:
    try:
        look(*arguments)
    except (ArtifactError, InputError) as error:
        yield error
