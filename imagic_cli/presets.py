"""Presets: a model with its recipe, one TOML file each in `configs/`."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from imagic_cli.config import (
    AboveSettings,
    FinetuneSettings,
    ModelSource,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    Settings,
)
from imagic_cli.errors import UsageError

DEFAULT_PRESET = "sketchbook"


class Preset(Settings):
    """One file in `configs/`: a model and its recipe.

    Attributes:
        super_resolution: stage B's recipe for the levels of a cascade above the base.
        above: stage B's recipes for single ones of them, by name.
    """

    description: str
    model: ModelSource
    photo: PhotoSettings = PhotoSettings()
    optimize: OptimizeSettings = OptimizeSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    super_resolution: AboveSettings = AboveSettings()
    above: dict[str, AboveSettings] = {}
    generate: SamplingSettings = SamplingSettings()


def preset_names() -> list[str]:
    """The presets that are shipped."""
    return sorted(entry.name.removesuffix(".toml") for entry in _presets().iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """Read one preset.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in preset_names():
        raise UsageError(f"no preset '{name}'", f"there are: {', '.join(preset_names())}")
    return Preset.model_validate(tomllib.loads(_presets().joinpath(f"{name}.toml").read_text("utf-8")))


def _presets() -> Any:
    # In the wheel they lie inside the package; in a checkout, beside it.
    shipped = resources.files("imagic_cli") / "configs"
    return shipped if shipped.is_dir() else Path(__file__).parents[1] / "configs"
