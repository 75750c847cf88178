"""A run's LoRA as a file for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imagic_cli import files
from imagic_cli.artifacts import Loaded, Weights
from imagic_cli.container import packed
from imagic_cli.errors import ArtifactError
from imagic_cli.outputs import check_free
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stamps import canonical

if TYPE_CHECKING:
    from torch import Tensor


def export_lora(run: Run, file: Path, force: bool) -> list[Path]:
    """Write the factors that stage B trained, as they are stored, in the layout that other programs read.

    Args:
        run: holds what `imagic finetune --method lora` made.
        file: where to; of a model with several tuned levels each gets a file, with the level's name behind this one's.
        force: replace another file there.

    Returns:
        What was written, or was there already with the same bytes.

    Raises:
        ArtifactError: the run has no LoRA, or a stale or corrupt one.
        UsageError: another file is there, and no `force`.
        DiskError: the disk refused.
    """
    record = run.read_record()
    loras = _loras(run, record)
    paths = {level: file if len(loras) == 1 else file.with_stem(f"{file.stem}-{level}") for level in loras}
    contents = {path: _content(loras[level], level, record) for level, path in paths.items()}
    for path in contents:
        check_free(path, lambda path: path.read_bytes() == contents[path], force)
    for path, content in contents.items():
        files.commit_bytes(path, content)
    return list(contents)


def _loras(run: Run, record: Record) -> dict[str, Loaded[Weights]]:
    embeddings = run.read_embeddings(record).digest
    tuned = run.read_weights(record, embeddings, record.levels())
    found = {level: loaded for level, loaded in tuned.items() if loaded.stamp.settings.get("method") == "lora"}
    if not tuned:
        raise ArtifactError(f"{run.path} has no LoRA yet", f"run: imagic finetune --method lora --run {run.path}")
    if not found:
        hint = f"run: imagic finetune --method lora --force --run {run.path}"
        raise ArtifactError(f"{run.path} has no LoRA: finetune trained every weight", hint)
    return found


def _content(loaded: Loaded[Weights], level: str, record: Record) -> bytes:
    factors, rank = loaded.content.of(level), loaded.stamp.settings["rank"]
    # kohya's names are for Stable Diffusion's UNets, whose attention lies in transformer blocks.
    if all("transformer_blocks" in name for name in factors):
        about = {"rank": rank, "alpha": rank, "model": record.model_name, "text": record.text, "made of": loaded.digest}
        return packed(_kohya(factors, rank), {"imagic": canonical(about)})
    return packed({f"unet.{name}": each for name, each in factors.items()}, _diffusers_header(factors, rank))


def _kohya(factors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The layout of kohya's sd-scripts, which diffusers, ComfyUI, A1111 and its forks, and sd-scripts itself read.

    A1111 splits names at their first full stop, and so does not read diffusers' own layout; SDXL's other names for the
    same blocks (input_blocks) are mapped from these by all of them.
    """
    import torch

    found = {}
    for name, factor in factors.items():
        layer, _, part = name.rpartition(".lora_")
        prefix = f"lora_unet_{layer.replace('.', '_')}"
        found[f"{prefix}.lora_{'down' if part == 'A.weight' else 'up'}.weight"] = factor
        found[f"{prefix}.alpha"] = torch.tensor(float(rank))
    return found


def _diffusers_header(factors: Mapping[str, Tensor], rank: int) -> dict[str, str]:
    # What diffusers' own save_lora_weights leaves there: else it would have to guess alpha.
    layers = sorted({name.rpartition(".lora_")[0] for name in factors})
    config = {"unet.r": rank, "unet.lora_alpha": rank, "unet.target_modules": layers}
    return {"lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)}
