"""Denoisers of pixels: the levels of a cascade, and the photograph as each of them sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from imagic_cli.backends.base import Guide, Level
from imagic_cli.embedding import Embedding
from imagic_cli.noise import Schedule


@dataclass(frozen=True)
class PixelCodec:
    """The photograph's own pixels, smaller by a whole factor for the levels below the largest."""

    factor: int
    device: torch.device

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H/f, W/f), reduced where the pixels are and then brought to the device."""
        return reduced(pixels, self.factor).to(self.device)

    def decode(self, clean: Tensor) -> Tensor:
        """The clean sample is the picture."""
        return clean

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(3, H/f, W/f)."""
        return 3, height // self.factor, width // self.factor


def reduced(pixels: Tensor, factor: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3, H/f, W/f), bicubic over the area that each new pixel covers."""
    if factor == 1:
        return pixels
    size = [side // factor for side in pixels.shape[-2:]]
    # The cubic overshoots at edges: no picture that a level was trained on leaves [-1, 1].
    return interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)


def enlarged(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, h, w) -> (B, 3, *size), as diffusers' super-resolution pipeline for IF enlarges what it is given."""
    return interpolate(pixels, size, mode="bilinear", align_corners=True)


@dataclass(frozen=True)
class LowResolution:
    """How a super-resolution level is trained on a smaller picture: as it was pretrained.

    Attributes:
        scheduler: the model's own, for the noise on the enlarged picture.
        levels: how many noise levels it has.
        factor: how much smaller the picture is.
    """

    scheduler: Any
    levels: int
    factor: int

    def guide(self, clean: Tensor, batch: int, generator: torch.Generator) -> Guide:
        """The photograph reduced and enlarged again, noised to uniformly drawn levels; clean is (1, 3, H, W)."""
        low = enlarged(reduced(clean, self.factor), (clean.shape[-2], clean.shape[-1]))
        noise = torch.randn((batch, *clean.shape[1:]), generator=generator, dtype=torch.float32)
        level = torch.randint(self.levels, (batch,), generator=generator).to(clean.device)
        repeated = low.expand(batch, *low.shape[1:])
        return Guide(self.scheduler.add_noise(repeated, noise.to(clean), level), level)


def pixel_level(name: str, unet: Any, schedule: Schedule, low: LowResolution | None) -> Level:
    """The level that a UNet is; with `low` one above the base."""

    def predict(x_t: Tensor, timestep: Tensor, embedding: Embedding, guide: Guide | None = None) -> Tensor:
        seen = x_t if guide is None else torch.cat([x_t, guide.picture.to(x_t)], dim=1)
        labels = None if guide is None else guide.noise_level
        output: Tensor = unet(seen, timestep, embedding.tokens, class_labels=labels).sample
        # The channels behind them are the learned variance, which the paper's loss says nothing of.
        return output[:, : x_t.shape[1]]

    return Level(name, unet, schedule, predict) if low is None else Level(name, unet, schedule, predict, low.guide)
