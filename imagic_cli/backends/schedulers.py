"""Samplers by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

_CLASSES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def sampler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler called `name`, with the model's own schedule and prediction type."""
    # The Runge-Kutta warm-up was never used with these models.
    options = {"skip_prk_steps": True} if name == "pndm" else {}
    return getattr(diffusers, _CLASSES[name]).from_config(dict(config), **options)
