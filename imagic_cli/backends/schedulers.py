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
    # A config written for one sampler lacks what another would guess wrongly: latents are never clipped, the last step
    # goes to the schedule's own end, and the Runge-Kutta warm-up was never used with these models.
    told = {"set_alpha_to_one": False, "skip_prk_steps": True} | dict(config) | {"clip_sample": False}
    return getattr(diffusers, _CLASSES[name]).from_config(told)
