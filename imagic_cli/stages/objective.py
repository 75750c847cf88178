"""The paper's one loss, and a form of it that can be compared between steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

from imagic_cli.backends.base import Backend, Guide, Level
from imagic_cli.embedding import Embedding
from imagic_cli.image import to_tensor
from imagic_cli.memory import release
from imagic_cli.names import BASE
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision

# Single draws say nothing: the loss differs by an order of magnitude between timesteps.
PROBE_DRAWS = 8


def encode_image(backend: Backend, image: Image.Image, device: torch.device, level: str = BASE) -> Tensor:
    """x, (1, C, h, w), as a level sees it: encoded once, and the codec is gone when training starts."""
    clean = backend.codec(device, level).encode(to_tensor(image)).detach()
    release(device)
    return clean


@dataclass(frozen=True)
class Drawn:
    """What one step draws.

    Attributes:
        noise: eps, (B, C, h, w).
        timestep: t, (B,).
        guide: what the level is given beside x_t.
    """

    noise: Tensor
    timestep: Tensor
    guide: Guide | None

    def tensors(self) -> list[Tensor]:
        """All of it, in a fixed order."""
        guide = [] if self.guide is None else [self.guide.picture, self.guide.noise_level]
        return [self.noise, self.timestep, *guide]


def draw(level: Level, clean: Tensor, batch: int, generator: torch.Generator) -> Drawn:
    """Draw t, eps and what the level needs beside them for `batch` noised copies of x, (1, C, h, w)."""
    noise, timestep = level.schedule.draw(clean, batch, generator)
    return Drawn(noise, timestep, level.guide(clean, batch, generator))


def denoising_loss(level: Level, clean: Tensor, embedding: Embedding, drawn: Drawn, precision: Precision) -> Tensor:
    """L(x, e, theta) = || eps - f_theta(x_t, t, e) ||^2 averaged over elements and draws of t and eps (eq. 2).

    Args:
        level: the denoiser.
        clean: x, (1, C, h, w).
        embedding: e, of one text.
        drawn: t and eps.
        precision: what the denoiser computes in; the loss is taken in fp32 at least.

    Returns:
        A scalar.
    """
    noise, timestep = drawn.noise, drawn.timestep
    repeated = clean.expand_as(noise)
    x_t = level.schedule.corrupt(repeated, noise, timestep)
    text = embedding.expand(len(noise)).to(dtype=precision.dtype)
    prediction = level.predict(x_t.to(precision.dtype), timestep, text, drawn.guide)
    target = level.schedule.target(repeated, noise, timestep)
    wide = torch.promote_types(target.dtype, torch.float32)
    return mse_loss(prediction.to(wide), target.to(wide))


def probe_loss(level: Level, clean: Tensor, embedding: Embedding, precision: Precision) -> float:
    """The loss over `PROBE_DRAWS` fixed draws, one from each part of the range of timesteps."""
    generator = Stream(0, "probe", level=level.name).at(0)
    noise, timestep = level.schedule.draw(clean, PROBE_DRAWS, generator)
    total = 0.0
    with torch.no_grad():
        # One at a time: a probe must not need more memory than a step.
        for one_noise, one_step in zip(noise.split(1), timestep.split(1), strict=True):
            drawn = Drawn(one_noise, one_step, level.guide(clean, 1, generator))
            total += denoising_loss(level, clean, embedding, drawn, precision).item()
    return total / PROBE_DRAWS
