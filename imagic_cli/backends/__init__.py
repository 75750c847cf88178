"""Families of models, by the pipeline class that a model folder names. Nothing is imported before it is needed."""

from __future__ import annotations

import gc
import importlib
import warnings
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from imagic_cli.errors import ModelError

if TYPE_CHECKING:
    from imagic_cli.backends.base import Backend
    from imagic_cli.backends.source import Model

FAMILIES = {
    "StableDiffusionPipeline": "imagic_cli.backends.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "imagic_cli.backends.stable_diffusion_xl:StableDiffusionXL",
    "IFPipeline": "imagic_cli.backends.deepfloyd_if:DeepFloydIF",
}
USUAL_PRESETS = {"IFPipeline": "if"}
"""Whose numbers a family takes where no preset is named; the paper's for Stable Diffusion where none is here."""


def load(model: Model) -> Backend:
    """The backend for a model that has been found.

    Raises:
        ModelError: its family is not supported.
    """
    if model.family not in FAMILIES:
        raise ModelError(f"{model.name} is a {model.family}", f"supported: {', '.join(FAMILIES)}")
    quiet_libraries()
    module, _, name = FAMILIES[model.family].partition(":")
    backend: Backend = getattr(_imported(module), name)(model)
    return backend


@cache
def _imported(module: str) -> ModuleType:
    found = importlib.import_module(module)
    # What the libraries are made of stays: each collection would take a third of a second to find that.
    gc.freeze()
    return found


def quiet_libraries() -> None:
    """Silence bars and notes that would tear ours; what a user must know is raised or told by us."""
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
