"""One finished run that holds every kind of file, made once; tests damage copies of it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import toys
from drive import done

from imagic_cli import resolve
from imagic_cli.config import SamplingSettings
from imagic_cli.presets import Preset
from imagic_cli.stages.training import Training

TEXT = "a bird spreading wings"
OTHER_TEXT = "a blue fish"
STEPS = 3
IMAGE = "eta-0.700_seed-0000"

ARTIFACTS = {
    "embeddings": "embeddings.safetensors",
    "weights": "weights.safetensors",
    "samples": "samples.safetensors",
    "text": "texts/text.safetensors",
    "progress": ".progress/finetune.safetensors",
}
"""Kind to place; `place` knows the cached text's real name."""
FILES = ARTIFACTS | {
    "run.json": "run.json",
    "image.png": "image.png",
    "picture": f"images/{IMAGE}.png",
    "record": f"images/{IMAGE}.json",
}


def make(folder: Path, name: str = "usual", side: int = 48, text: str = TEXT, seed: int = 0) -> Path:
    """A run of three steps with images, a variant, a cached text, and the progress that a kill would have left."""
    model, run, photo = folder / "models" / "sd", folder / f"specimen-{name}", folder / f"photo-{side}.png"
    if run.exists():
        return run
    if not (model / "model_index.json").exists():
        toys.stable_diffusion(model)
    toys.picture(side).save(photo)
    begun = folder / f"begun-{name}"
    shutil.rmtree(begun, ignore_errors=True)
    recipe = ["--run", begun, "--steps", STEPS, "--seed", seed, "--checkpoint-every", 1]
    # The run's own way of sampling has two steps, so that it needs no variant.
    short = functools.partial(Preset, generate=SamplingSettings(steps=STEPS - 1))
    with mock.patch.object(Training, "finish", lambda _training: None), mock.patch.object(resolve, "Preset", short):
        done("optimize", photo, text, "--model", model, *recipe)
        done("finetune", *recipe)
    done("generate", "--run", begun, "--seed", seed)
    done("generate", "--run", begun, "--seed", seed, "--prompt", OTHER_TEXT)
    begun.rename(run)
    return run


def copy(run: Path, place: Path) -> Path:
    """A copy to damage."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place)
    return place


def place(run: Path, kind: str) -> Path:
    """Where the file of a kind lies in a run."""
    if kind == "text":
        return next((run / "texts").glob("*.safetensors"))
    return run / FILES[kind]


def readers(run: Path) -> dict[str, tuple[Callable[[], object], list[object]]]:
    """For each kind: how to bring the run where its next command reads the file, and that command."""

    def nothing() -> None:
        pass

    def untrained() -> None:
        (run / "weights.safetensors").unlink()

    another = ["generate", "--run", run, "--prompt", OTHER_TEXT, "--eta", "0.9"]
    return {
        "embeddings": (nothing, ["finetune", "--run", run]),
        "weights": (nothing, ["generate", "--run", run]),
        "samples": (nothing, ["generate", "--run", run]),
        "text": (nothing, another),
        "progress": (untrained, ["finetune", "--run", run]),
        "run.json": (nothing, ["status", run]),
        "image.png": (untrained, ["finetune", "--run", run]),
    }
