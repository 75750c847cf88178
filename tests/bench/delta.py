"""How large the change that stage B made is in each form of storing it, and how far its images are from fp32's.

    python tests/bench/delta.py [--model FOLDER] [--work FOLDER]

Runs stages A and B, B at the paper's rate and at a larger one, and keeps the change in fp32; puts each form's values in
its place, and compares images over eta and seed with those of fp32, value by value. Without `--model`: on a small model
in the Stable Diffusion layout with random weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import toys

from imagic_cli.artifacts import Weights

STEPS = 300
RANKS = (4, 16, 64)

Form = Callable[[Tensor], tuple[Tensor, int]]
"""A weight's change in fp32 to what is read back of it, and the bytes that it takes."""


def cast(dtype: torch.dtype, change: Tensor) -> tuple[Tensor, int]:
    """In another number format."""
    stored = change.to(dtype)
    return stored.float(), stored.nbytes


def eight_bits(change: Tensor) -> tuple[Tensor, int]:
    """In 255 even levels, with an fp32 scale for each output."""
    rows = change.reshape(len(change), -1)
    scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    levels = (rows / scale).round().to(torch.int8)
    return (levels.float() * scale).view_as(change), levels.nbytes + scale.nbytes


def truncated(rank: int, change: Tensor) -> tuple[Tensor, int]:
    """As its largest singular values and vectors, two thin matrices in fp16; in fp16 whole where that is smaller."""
    rows = change.reshape(len(change), -1)
    if change.ndim < 2 or rank * sum(rows.shape) >= rows.numel():
        return cast(torch.float16, change)
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    # The root of s on each side keeps both within fp16's range.
    left, right = ((u * s.sqrt())[:, :rank]).half(), ((s.sqrt()[:, None] * v)[:rank]).half()
    return (left.float() @ right.float()).view_as(change), left.nbytes + right.nbytes


FORMS: Mapping[str, Form] = {
    "fp16": partial(cast, torch.float16),
    "bf16": partial(cast, torch.bfloat16),
    "int8": eight_bits,
    **{f"SVD, rank {rank}": partial(truncated, rank) for rank in RANKS},
}


def imagic(*arguments: object) -> None:
    command = [sys.executable, "-m", "imagic_cli", *(str(argument) for argument in arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def images(run: Path) -> np.ndarray:
    """All images that the run's change makes."""
    imagic("generate", "--run", run, "--eta", "0:1:0.25", "--seeds", 4, "--batch-size", 4, "--force")
    return np.stack([np.asarray(Image.open(path), dtype=int) for path in sorted((run / "images").glob("eta-*.png"))])


def compared(run: Path) -> list[dict[str, object]]:
    """Every form beside fp32, of the change that lies in `run`; it lies there afterwards as before."""
    path = run / "weights.safetensors"
    loaded = Weights.load(path)
    exact = images(run)
    found: list[dict[str, object]] = [
        {"stored": "fp32", "MB": round(sum(t.nbytes for t in loaded.content.deltas.values()) / 1e6, 2)}
    ]
    for name, form in FORMS.items():
        stored = {key: form(change) for key, change in loaded.content.deltas.items()}
        Weights({key: values.contiguous() for key, (values, _) in stored.items()}).save(path, loaded.stamp)
        gap = np.abs(images(run) - exact)
        size = sum(each for _, each in stored.values())
        found.append(
            {
                "stored": name,
                "MB": round(size / 1e6, 2),
                "grey levels, most": int(gap.max()),
                "grey levels, mean": float(gap.mean()),
                "values that differ": float((gap > 0).mean()),
            }
        )
    loaded.content.save(path, loaded.stamp)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="preset or folder; a small random one")
    parser.add_argument("--size", type=int, default=64, help="side of the picture, pixels")
    parser.add_argument("--work", type=Path, default=Path(tempfile.mkdtemp(prefix="imagic-delta-")))
    given = parser.parse_args()
    model, photo, run = given.model or given.work / "model", given.work / "photo.png", given.work / "run"
    given.work.mkdir(parents=True, exist_ok=True)
    if given.model is None and not (model / "model_index.json").exists():
        toys.stable_diffusion(model)
    toys.picture(given.size).save(photo)
    size = ["--size", given.size, "--force"]
    imagic("optimize", photo, "a disc", "--model", model, "--run", run, "--steps", STEPS, *size)
    found = {}
    for rate in ("5e-7", "1e-4"):
        imagic("finetune", "--run", run, "--steps", STEPS, "--lr", rate, "--delta-dtype", "fp32", "--force")
        found[f"B at {rate}"] = compared(run)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
