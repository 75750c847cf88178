"""One .safetensors checkpoint in the original layout, turned once into a folder in diffusers layout."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from imagic_cli import files
from imagic_cli.backends import hub, quiet_libraries
from imagic_cli.backends.digests import cache_folder, file_digest
from imagic_cli.config import ModelSource
from imagic_cli.container import os_errors
from imagic_cli.errors import MemoryShortError, ModelError
from imagic_cli.lock import in_turn
from imagic_cli.precision import is_short

_UNDER_WAY = ".converting-"


def convert(path: Path, source: ModelSource) -> Path:
    """The folder that `path` was, or is now, converted into: under the cache folder, named by the content's hash.

    Raises:
        ModelError: it is no checkpoint of a supported family, or its configs and tokenizer cannot be had.
        DiskError: there is no place for the folder.
        MemoryShortError: the memory does not hold the model.
    """
    given = Path(source.config).expanduser() if source.config else None
    folder = cache_folder() / "checkpoints" / _name(path, given)
    if not _is_whole(folder):
        quiet_libraries()
        config = given or _configs(path)
        pipeline_class = _family(config)
        with files.disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(folder.parent / ".lock"):
            # Another process may have done it meanwhile.
            if not _is_whole(folder):
                _convert(path, config, pipeline_class, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _convert(path: Path, config: Path, pipeline_class: Any, folder: Path) -> None:
    # A killed process left it there: this one holds the lock.
    for left in folder.parent.glob(f"{_UNDER_WAY}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        # Converted beside its place and renamed, so that a half-written folder is never taken for a whole one.
        with files.disk_errors(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNDER_WAY) as temporary:
            pipeline = _opened(path, config, pipeline_class)
            with os_errors():
                pipeline.save_pretrained(Path(temporary) / "model", safe_serialization=True)
            shutil.move(Path(temporary) / "model", folder)
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise MemoryShortError(f"out of memory while {path.name} is converted", "it is converted once") from error


def _opened(path: Path, config: Path, pipeline_class: Any) -> Any:
    try:
        pipeline = pipeline_class.from_single_file(str(path), config=str(config), local_files_only=True)
        for name, part in pipeline.components.items():
            # What the library found no tensor for has a shape and no content.
            if isinstance(part, torch.nn.Module) and any(each.is_meta for each in part.parameters()):
                raise ValueError(f"tensors of {name} are missing")
        return pipeline
    except Exception as error:  # Libraries meet damage with errors of every class.
        if is_short(error):
            raise
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise ModelError(f"{path.name} is not a checkpoint for these configs: {reason}") from error


def _name(path: Path, config: Path | None) -> str:
    # Other configs make another model of the same weights.
    parts = [file_digest(path)]
    for each in sorted([*config.glob("*.json"), *config.glob("*/*.json"), *config.glob("*/*.txt")]) if config else []:
        parts.append(file_digest(each))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


def _family(config: Path) -> Any:
    import diffusers

    try:
        name = json.loads((config / "model_index.json").read_bytes())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config} has no model_index.json", "name a folder in diffusers layout with --config"
        ) from error
    from imagic_cli.backends import FAMILIES

    if name not in FAMILIES:
        raise ModelError(f"{config} is a {name}", f"supported: {', '.join(FAMILIES)}")
    return getattr(diffusers, name)


def _configs(path: Path) -> Path:
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        name = fetch_diffusers_config(load_file(path))["pretrained_model_name_or_path"]
        return hub.download(ModelSource(source=name), weights=False)
    except ModelError as error:
        raise ModelError(
            f"{path.name} needs the configs and tokenizer of its family, and the hub cannot be reached",
            "name a folder that has them with --config",
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path.name} is not a Stable Diffusion checkpoint") from error
