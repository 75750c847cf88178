"""The command lines that make a run and its pictures again, with every setting written out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagic_cli.config import SamplingSettings
from imagic_cli.record import Record
from imagic_cli.run import Run

_FLAGS = {"learning_rate": "lr", "condition": "sr-condition"}


def training(run: Run, record: Record) -> list[str]:
    """Stages A and B from the photograph on. Paths of this machine are left out, as they are in the pictures."""
    model = record.model
    source = {"model": record.model_name, "revision": model.revision, "variant": model.variant}
    source |= {"config": model.config and Path(model.config).name, "encoder": model.encoder}
    center = ",".join(f"{part:g}" for part in record.photo.center) if record.photo.fit == "crop" else None
    photo = record.photo.model_dump() | {"center": center}
    place, levels = {"run": str(run.path)}, record.levels()
    return [
        _line("optimize", [record.image.name, record.text], place | source | photo | record.optimize.model_dump()),
        *(_line("finetune", [], place | _level(record, level) | record.recipe(level).model_dump()) for level in levels),
    ]


def picture(run: Run, record: Record, made: Mapping[str, Any], setting: str, value: str, seed: int) -> str:
    """The picture at one place of a grid.

    Args:
        run: whose.
        record: its settings.
        made: the record in that picture, or in another one of the same series.
        setting: what changes along the grid.
        value: of the setting, as it is written.
        seed: of the noise.
    """
    if "method" in made:
        # Each method takes its own flags alone.
        own = {"source": made.get("source")} if made["method"] == "ddib" else {"seed": seed}
        place = {setting: value, **own}
        kept = {name: made[name] for name in ("scheduler", "steps", "dtype") if made.get(name)}
        return _line("baseline", [str(made["method"]), str(run.path)], place | kept)
    place = {setting: value, "seed": seed}
    return _line("generate", [], {"run": str(run.path)} | place | _sampling(record, made))


def sweep(run: Run, record: Record, made: Mapping[str, Any], values: Sequence[str], seeds: Sequence[int]) -> str:
    """`imagic sweep` over these etas and the range of these seeds: it measures what is there already."""
    place = {"eta": ",".join(values), "seed": f"{min(seeds)}:{max(seeds) + 1}"}
    return _line("sweep", [str(run.path)], place | _sampling(record, made))


def _level(record: Record, level: str) -> dict[str, object]:
    # Without it the command is about every level.
    return {"level": level} if record.above else {}


def _sampling(record: Record, made: Mapping[str, Any]) -> dict[str, object]:
    flags = {name: made[name] for name in SamplingSettings.model_fields if name in made}
    usual = {"prompt": record.generate.prompt or record.text, "negative": record.generate.negative}
    return {name: value for name, value in flags.items() if name not in usual or value != usual[name]}


def _line(command: str, arguments: list[str], flags: Mapping[str, object]) -> str:
    words = ["imagic", command]
    # What begins with a dash would be read as a flag.
    dashed = any(each.startswith("-") for each in arguments)
    words += [] if dashed else arguments
    for name, value in flags.items():
        flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return shlex.join([*words, *(["--", *arguments] if dashed else [])])
