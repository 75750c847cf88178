"""A folder of results holds those of one way of making them: figures of two are never averaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagic_cli import files
from imagic_cli.errors import ArtifactError, InputError
from imagic_cli.record import Record
from imagic_cli.stamps import Stamp


def keep_to(folder: Path, record: Record, **more: object) -> None:
    """Note beside the results how they are made; refuse another way than the one that is noted.

    Args:
        folder: of the results.
        record: of any of its edits.
        more: what else changes all results.

    Raises:
        InputError: the folder's results are of another model or other settings.
        ArtifactError: what is noted cannot be read.
        DiskError: the disk refused.
    """
    stages = {"photo": record.photo, "optimize": record.optimize, "finetune": record.finetune, **record.above}
    stages["generate"] = record.generate
    told: dict[str, Any] = {name: each.model_dump(mode="json") for name, each in stages.items()}
    told |= {"model": record.identity, **more}
    path = folder / "settings.json"
    if not path.exists():
        files.commit_bytes(path, json.dumps(told, indent=1).encode())
        return
    try:
        before = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged", "name another --out, or remove it") from error
    if before != told:
        changed = ", ".join(_flat(before).differences(_flat(told)))
        raise InputError(f"{folder} has results of another model or other settings ({changed})", "name another --out")


def _flat(told: Mapping[str, Any]) -> Stamp:
    stages = {stage: settings for stage, settings in told.items() if isinstance(settings, dict)}
    flat = {f"{stage} {name}": value for stage, settings in stages.items() for name, value in settings.items()}
    alone = {name: value for name, value in told.items() if name not in stages and name != "model"}
    return Stamp("settings", "", flat | alone, {"model": str(told.get("model"))})
