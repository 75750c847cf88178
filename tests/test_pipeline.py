"""The three stages through the real command."""

from __future__ import annotations

from pathlib import Path

import pytest
from drive import digests, done, imagic

TEXT = "a bird spreading wings"
FILES = {
    "embeddings.safetensors",
    "image.png",
    "images/eta-0.700_seed-0000.json",
    "images/eta-0.700_seed-0000.png",
    "logs/finetune.jsonl",
    "logs/optimize.jsonl",
    "samples.safetensors",
    "weights.safetensors",
}


def edit(photo: Path, model: Path, run: Path, steps: int = 3) -> None:
    done("optimize", photo, TEXT, "--model", model, "--run", run, "--steps", steps)
    done("finetune", "--run", run, "--steps", steps)
    done("generate", "--run", run)


@pytest.mark.parametrize("family", ["sd", "sdv", "sdxl"])
def test_a_run_holds_exactly_these_files(photo: Path, models: Path, family: str) -> None:
    edit(photo, models / family, Path("run"))
    assert set(digests(Path("run"))) == FILES
    assert imagic("check", "run").code == 0
