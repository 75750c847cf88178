"""One .safetensors checkpoint in the original layout, turned once into a folder in diffusers layout."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from imagic_cli.backends import hub, quiet_libraries
from imagic_cli.backends.digests import cache_folder, file_digest
from imagic_cli.config import ModelSource
from imagic_cli.errors import ModelError


def convert(path: Path, source: ModelSource) -> Path:
    """The folder that `path` was, or is now, converted into: under the cache folder, named by the content's hash.

    Raises:
        ModelError: it is no checkpoint of a supported family, or its configs and tokenizer cannot be had.
    """
    given = Path(source.config).expanduser() if source.config else None
    folder = cache_folder() / "checkpoints" / _name(path, given)
    if (folder / "model_index.json").is_file():
        return folder
    quiet_libraries()
    config = given or _configs(path)
    pipeline_class = _family(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside its place and renamed, so that a half-written folder is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary:
        try:
            pipeline = pipeline_class.from_single_file(str(path), config=str(config), local_files_only=True)
            pipeline.save_pretrained(Path(temporary) / "model", safe_serialization=True)
        except Exception as error:  # Libraries meet damage with errors of every class.
            reason = [*str(error).strip().splitlines(), type(error).__name__][0]
            raise ModelError(f"{path.name} is not a checkpoint for these configs: {reason}") from error
        if not folder.exists():
            shutil.move(Path(temporary) / "model", folder)
    return folder


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
