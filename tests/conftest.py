"""Toy models, made once a session, and an environment that reaches nothing outside the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: one thread, so that bits do not depend on the machine and forks are safe; never the network.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "120"}

import torch
import toys

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds toy models: sd (epsilon), sdv (v prediction), sdxl, cascade (DeepFloyd IF, all of it)."""
    folder = tmp_path_factory.mktemp("models")
    toys.stable_diffusion(folder / "sd")
    toys.stable_diffusion(folder / "sdv", "v_prediction", seed=1, scaling=0.3)
    toys.stable_diffusion_xl(folder / "sdxl", seed=2)
    toys.cascade(folder / "cascade", seed=3)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of 48 x 48 pixels: a gradient and a disc."""
    path = tmp_path_factory.mktemp("photo") / "bird.png"
    toys.picture(48).save(path)
    return path


@pytest.fixture
def disturbed(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reliability groups of a session work: what they disturb is made once, and forks import nothing."""
    import reliability

    folder = tmp_path_factory.getbasetemp() / "disturbed"
    if not folder.exists():
        reliability.warm(folder)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Every test works in an empty directory, with a cache of its own session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("IMAGIC_RUN", raising=False)
    return tmp_path
