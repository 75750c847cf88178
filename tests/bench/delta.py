"""How far images differ from fp32's when the change that stage B made is stored in fp16 or bf16.

    python tests/bench/delta.py [--work FOLDER]

Runs stages A and B on a small model in the Stable Diffusion layout with random weights, B at the paper's rate and at a
larger one, stores B's change in each format, and compares images over eta and seed with those of fp32, value by value.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import toys

STEPS = 300


def imagic(*arguments: object) -> None:
    command = [sys.executable, "-m", "imagic_cli", *(str(argument) for argument in arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def images(run: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), dtype=int) for path in sorted((run / "images").glob("eta-*.png"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.mkdtemp(prefix="imagic-delta-")))
    work: Path = parser.parse_args().work
    model, photo, run = work / "model", work / "photo.png", work / "run"
    if not (model / "model_index.json").exists():
        toys.stable_diffusion(model)
    toys.picture(64).save(photo)
    imagic("optimize", photo, "a disc", "--model", model, "--run", run, "--steps", STEPS, "--size", 64, "--force")
    found = []
    for rate in ("5e-7", "1e-4"):
        made = {}
        for dtype in ("fp32", "fp16", "bf16"):
            imagic("finetune", "--run", run, "--steps", STEPS, "--lr", rate, "--delta-dtype", dtype, "--force")
            imagic("generate", "--run", run, "--eta", "0:1:0.25", "--seeds", 4, "--batch-size", 4, "--force")
            made[dtype] = images(run)
        for dtype in ("fp16", "bf16"):
            gap = np.abs(made[dtype] - made["fp32"])
            differ = float((gap > 0).mean())
            found.append(
                {"lr": rate, "stored": dtype, "grey levels, most": int(gap.max()), "pixels that differ": differ}
            )
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
