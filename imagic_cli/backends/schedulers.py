"""Noise schedules from a model's own config, and samplers by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

from imagic_cli.errors import ModelError, UsageError
from imagic_cli.noise import Schedule

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
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


# Those that threshold as pixel models were sampled with, and whose step scales no input: the super-resolution pipeline
# would scale the picture that guides it as well.
_OF_PIXELS = ("ddpm", "ddim", "dpm++", "unipc")


def schedule(model: str, config: Mapping[str, Any]) -> Schedule:
    """A model's training noise and target, from its scheduler config.

    Raises:
        ModelError: it predicts something that the loss has no target for.
    """
    prediction, other = config.get("prediction_type", "epsilon"), str(config.get("_class_name", ""))
    if prediction not in _PREDICTIONS or any(part in other for part in ("EDM", "Flow")):
        raise ModelError(f"{model} predicts {prediction} with {other}", f"supported: {', '.join(_PREDICTIONS)}")
    scheduler = diffusers.DDPMScheduler.from_config(dict(config))
    return Schedule(scheduler, scheduler.config.num_train_timesteps, scheduler.config.prediction_type)


def check_steps(steps: int, most: int) -> None:
    """Refuse more sampling steps than the `most` that a model's schedule has.

    Raises:
        UsageError: there are more.
    """
    if steps > most:
        raise UsageError(f"--steps {steps} is more than the model's {most} timesteps")


def pixel_sampler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler called `name` for a pixel model, with its own schedule, thresholding and variance.

    Raises:
        UsageError: that one cannot drive a pixel model.
    """
    if name not in _OF_PIXELS:
        raise UsageError(f"--scheduler {name} does not drive a cascade of pixels", f"use {', '.join(_OF_PIXELS)}")
    if name == "ddpm":
        return getattr(diffusers, _CLASSES[name]).from_config(dict(config))
    # The others have no use for a learned variance. The cosine schedule ends where logarithms overflow: the bound is
    # the one that diffusers documents for it.
    told = dict(config) | {"variance_type": None, "lambda_min_clipped": -5.1}
    return getattr(diffusers, _CLASSES[name]).from_config(told)


def sampler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler called `name` for latents, with the model's own schedule and prediction type."""
    # A config written for one sampler lacks what another would guess wrongly: latents are never clipped, the last step
    # goes to the schedule's own end, and the Runge-Kutta warm-up was never used with these models.
    told = {"set_alpha_to_one": False, "skip_prk_steps": True} | dict(config) | {"clip_sample": False}
    return getattr(diffusers, _CLASSES[name]).from_config(told)
