"""`imagic report`: one page that shows a run."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagic_cli import __version__, inspection
from imagic_cli.container import peek
from imagic_cli.errors import ArtifactError
from imagic_cli.evaluation import plots
from imagic_cli.pages import render, typed
from imagic_cli.pages.album import Series, curves, series
from imagic_cli.pages.previews import MOST_BYTES, MOST_SIDE, preview
from imagic_cli.photo import read
from imagic_cli.record import Record
from imagic_cli.run import Run

_STAGES = {"optimize": "Stage A: the text embedding", "finetune": "Stage B: the denoiser"}
# Beyond it a grid of small pictures is no help, and slow.
_MOST_CELLS = 2500


def page(run: Run, target: Path) -> str:
    """The HTML of a run's page.

    Args:
        run: whose; it is only read.
        target: where the page will lie: originals are linked relative to it.

    Raises:
        ArtifactError: there is no run, or its photograph is damaged.
    """
    record = run.read_record()
    photograph = run.read_image()
    whole = series(run)
    found = [each for each in whole if each.pictures]
    share = MOST_BYTES // (sum(len(each.pictures) for each in found) + 1)
    states = inspection.states(run)
    albums = [_album(run, record, each, target, share) for each in found]
    data = {
        "input": {"src": preview(photograph, share), "original": _link(run.image_file, target)},
        "albums": albums,
        "useful": plots.USEFUL,
        "mostCells": _MOST_CELLS,
    }
    return render(
        "run",
        images="data:",
        data=data,
        record=record,
        version=__version__,
        size=photograph.size,
        albums=[(album["name"], plot) for album, plot in zip(albums, map(_tradeoff, found), strict=True)],
        measure=[_measure(run, record, each) for each in found],
        problems=[*_conditions(states), *(problem for each in whole for problem in each.problems)],
        suggestion=inspection.suggestion(states, run),
        losses=list(_losses(run)),
        training=typed.training(run, record),
        settings=_settings(run, record),
        bounds=(MOST_SIDE, MOST_BYTES // 2**20),
    )


def is_ours(path: Path) -> bool:
    """Whether a file is one of this tool's pages, as its title says."""
    try:
        with path.open("rb") as stream:
            return " · imagic</title>".encode() in stream.read(65536)
    except OSError:
        return False


def _album(run: Run, record: Record, found: Series, target: Path, share: int) -> dict[str, Any]:
    made = next((each.record for each in found.pictures.values()), {})
    cells = {
        f"{value}/{seed}": _cell(run, record, found, value, seed, made, target, share)
        for value in found.values
        for seed in found.seeds
    }
    name = found.name or "as recorded"
    text = str(made.get("prompt") or record.text)
    values, seeds = found.values, found.seeds
    return {"name": name, "setting": found.setting, "text": text, "values": values, "seeds": seeds, "cells": cells}


def _cell(
    run: Run, record: Record, found: Series, value: str, seed: int, made: Mapping[str, Any], target: Path, share: int
) -> dict[str, Any]:
    picture = found.pictures.get((value, seed))
    cell: dict[str, Any] = {"command": typed.picture(run, record, made, found.setting, value, seed)}
    if picture is None:
        return cell
    row = found.table.rows.get((value, seed), {}) if found.table else {}
    from PIL import Image

    return cell | {
        "src": preview(Image.fromarray(read(picture.path).pixels), share),
        "original": _link(picture.path, target),
        "figures": {name: f"{figure:.4g}" for name, figure in row.items()},
        "withheld": bool(picture.record.get("flagged")),
    }


def _link(path: Path, target: Path) -> str:
    # Both ends resolved: a page behind a symbolic link lies elsewhere than its name says.
    relative = os.path.relpath(path.resolve(), target.parent.resolve())
    return urllib.parse.quote(relative.replace(os.sep, "/"))


def _tradeoff(found: Series) -> str | None:
    return None if found.table is None else plots.inline(plots.tradeoff(found.table, "", found.setting))


def _measure(run: Run, record: Record, found: Series) -> str | None:
    made = next((each.record for each in found.pictures.values()), None)
    # A sweep measures what is sampled to the end.
    if made is None or found.table is not None or found.setting != "eta" or made.get("size") is not None:
        return None
    return typed.sweep(run, record, made, found.values, found.seeds)


def _conditions(states: list[inspection.State]) -> Iterator[str]:
    for state in states:
        if state.condition in {"stale", "damaged", "resumable"}:
            yield f"{state.stage} is {state.condition}{': ' + state.detail if state.detail else ''}"


def _losses(run: Run) -> Iterator[tuple[str, str]]:
    logs = sorted(
        (run.path / "logs").glob("*.jsonl"), key=lambda path: (path.stem not in _STAGES, path.stem != "optimize")
    )
    for path in logs:
        if points := curves(path):
            yield _STAGES.get(path.stem, path.stem), plots.inline(plots.losses(points, ""))


def _settings(run: Run, record: Record) -> dict[str, dict[str, object]]:
    model = {"model": record.model_name, "family": record.family, "identity": record.identity}
    model |= {name: value for name, value in record.model if name in {"revision", "variant"} and value}
    tables: dict[str, dict[str, object]] = {
        "Photograph": {**dict(record.image), **dict(record.photo)},
        "Model": {**model, "preset": record.preset or "none"},
        "Stage A, optimize": dict(record.optimize),
        "Stage B, finetune": dict(record.finetune),
        "Stage C, generate": dict(record.generate),
        "Digests of what was made": dict(_digests(run)),
    }
    for stage, how in record.history.items():
        told = {"finished": how.finished, "seconds": how.seconds}
        tables[f"How {stage} was computed"] = told | how.environment
    return tables


def _digests(run: Run) -> Iterator[tuple[str, str]]:
    samples = [run.path / "samples.safetensors", *sorted((run.path / "variants").glob("*/samples.safetensors"))]
    kinds = [
        (run.embeddings_file, "embeddings"),
        *((run.weights_file(level), "weights") for level in run.read_record().levels()),
        *((path, "samples") for path in samples),
    ]
    for path, kind in kinds:
        if path.is_file():
            try:
                stamp, digest = peek(path, kind)
            except ArtifactError:
                continue
            name = path.relative_to(run.path).as_posix()
            yield f"{name}, content", digest
            yield f"{name}, key of the work", stamp.key
