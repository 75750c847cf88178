"""Other ways to edit a picture from a text with the same pretrained model: what Imagic is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from imagic_cli.backends.base import Backend, Level
from imagic_cli.config import SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision


@runtime_checkable
class Reworks(Backend, Protocol):
    """A backend whose family has an image-to-image pipeline."""

    def from_noise(
        self,
        level: Level,
        texts: Sequence[Embedding],
        noise: Tensor,
        generators: Sequence[torch.Generator],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """Text-to-image sampling from given noise (B, C, h, w): clean samples like it, fp32 on the CPU."""

    def rework(
        self,
        level: Level,
        texts: Sequence[Embedding],
        clean: Tensor,
        strength: float,
        generators: Sequence[torch.Generator],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
    ) -> Tensor:
        """Image-to-image sampling from a noised `clean` (1, C, h, w): clean samples (B, C, h, w), fp32 on the CPU."""

    def scheduler_config(self) -> dict[str, Any]:
        """The model's own noise schedule."""


def sdedit(
    backend: Reworks,
    level: Level,
    clean: Tensor,
    target: Embedding,
    null: Embedding,
    strength: float,
    seeds: Sequence[int],
    sampling: SamplingSettings,
    precision: Precision,
) -> Tensor:
    """SDEdit (Meng et al., 2022): noise the input up to `strength` of the schedule, and denoise it under the target.

    Args:
        backend: of the model.
        level: its pretrained denoiser.
        clean: the input, (1, C, h, w).
        target: the target text.
        null: the unconditional embedding.
        strength: from 0 (the input) to 1 (plain text to image).
        seeds: of the noise, one picture each.
        sampling: how to sample.
        precision: number format and device.

    Returns:
        Clean samples (len(seeds), C, h, w), fp32 on the CPU.
    """
    generators = [Stream(seed, "sdedit").at(0) for seed in seeds]
    return backend.rework(level, [target] * len(seeds), clean, strength, generators, null, sampling, precision)


def ddib(
    backend: Reworks,
    level: Level,
    clean: Tensor,
    source: Embedding,
    target: Embedding,
    null: Embedding,
    sampling: SamplingSettings,
    precision: Precision,
) -> Tensor:
    """DDIB (Su et al., 2023): invert the input by DDIM under the source text, then decode it under the target text.

    Args: as for `sdedit`; `source` describes the input. The inversion is without guidance, as it must be to be exact.

    Returns:
        A clean sample (1, C, h, w), fp32 on the CPU. Nothing in it is random.
    """
    noise = inverted(backend, level, clean, source, sampling.steps, precision)
    generator = Stream(0, "ddib").at(0)
    return backend.from_noise(level, [target], noise, [generator], null, sampling, precision, lambda: None)


def inverted(
    backend: Reworks, level: Level, clean: Tensor, source: Embedding, steps: int, precision: Precision
) -> Tensor:
    """The noise (1, C, h, w), fp32 on the CPU, from which DDIM under `source` would give `clean`."""
    told = {"set_alpha_to_one": False} | backend.scheduler_config() | {"clip_sample": False}
    inverse: Any = DDIMInverseScheduler.from_config(told)
    inverse.set_timesteps(steps, device=precision.device)
    x_t = clean.to(precision.device, precision.dtype)
    text = source.to(precision.device, precision.dtype)
    with torch.no_grad():
        for timestep in inverse.timesteps:
            predicted = level.predict(x_t, timestep.expand(1), text)
            x_t = inverse.step(predicted, timestep, x_t).prev_sample
    return x_t.float().cpu()
