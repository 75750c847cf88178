"""What the cascade learns: the base to draw small scenes from text, super-resolution to enlarge them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from torch import nn
from transformers import T5EncoderModel, T5Tokenizer

from imagic_cli.backends.base import Guide, Level
from imagic_cli.backends.pixels import LowResolution, enlarged, pixel_level, reduced
from imagic_cli.backends.schedulers import pixel_sampler, schedule
from imagic_cli.embedding import Embedding
from imagic_cli.sketchbook.cascade_networks import FACTOR, read, tokenized
from imagic_cli.sketchbook.corpus import Pictures, tensor
from imagic_cli.sketchbook.denoising import SHOWN, Told, heldout_loss, noised, sampled, worded
from imagic_cli.sketchbook.grid import grid
from imagic_cli.sketchbook.loop import generator
from imagic_cli.sketchbook.scenes import SIZE, sample

# How much the smaller pictures of the grid are noised: as much as IF's pipeline does.
NOISE_LEVEL = 250
ENLARGED = 8
# A pixel model that predicts velocity tells the whole picture's colours in the first step, from noise alone: pushed as
# far as latents are, they leave what the thresholding keeps, and night becomes day. Super-resolution needs no push.
BASE_GUIDANCE, GUIDANCE = 1.5, 1.0


@dataclass(kw_only=True)
class _PixelLesson(ABC):
    """Trains on `pictures` of the training split, measured on `heldout`: uint8 (N, 128, 128, 3) both.

    The text encoder is trained before, and stays as it is, as in Imagen (Saharia et al., 2022).
    """

    network: UNet2DConditionModel
    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    noise: DDPMScheduler
    pictures: Pictures
    heldout: Pictures
    batch: int

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the checkpoint, the log and the grid."""

    @abstractmethod
    def _told(self, pixels: Sequence[Pictures], captions: Sequence[str], rng: torch.Generator) -> Told:
        """Noise on pictures, at timesteps spread evenly within the batch."""

    def draw(self, rng: torch.Generator) -> Told:
        """Scenes in one wording each, at timesteps spread evenly within the batch."""
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=rng).tolist()
        return self._told([self.pictures[i] for i in chosen], worded(chosen, rng), rng)

    def loss(self, drawn: Told) -> torch.Tensor:
        """The mean square error of the velocity."""
        return self._error(self.network, drawn)

    def _error(self, network: nn.Module, drawn: Told) -> torch.Tensor:
        assert isinstance(network, UNet2DConditionModel)
        task = drawn.task.to(network.device)
        guide = drawn.guide and Guide(*(each.to(network.device) for each in vars(drawn.guide).values()))
        predicted = _level(network, self.noise).predict(task.noisy, task.timesteps, self._read(drawn.ids), guide)
        return F.mse_loss(predicted, task.target)

    def measure(self, network: nn.Module) -> dict[str, float]:
        """The loss on held-out scenes with their full captions and always the same noise."""
        return heldout_loss(
            self.name,
            len(self.heldout),
            lambda part, captions, rng: self._error(network, self._told(list(self.heldout[part]), captions, rng)),
        )

    def _read(self, ids: torch.Tensor) -> Embedding:
        with torch.no_grad():
            return Embedding(read(self.text_encoder, ids))


@dataclass(kw_only=True)
class BaseLesson(_PixelLesson):
    """The base, on pictures made small."""

    batch: int = 32
    name = "cascade-base"

    def _told(self, pixels: Sequence[Pictures], captions: Sequence[str], rng: torch.Generator) -> Told:
        return Told(noised(self.noise, reduced(tensor(pixels), FACTOR), rng), tokenized(self.tokenizer, captions))

    def picture(self, network: nn.Module) -> Image.Image:
        """One picture for each of `SHOWN`, guided, always from the same noise, its pixels enlarged to be seen."""
        assert isinstance(network, UNet2DConditionModel)
        text = self._read(tokenized(self.tokenizer, [""] * len(SHOWN) + list(SHOWN)))
        level, side = _level(network, self.noise), SIZE // FACTOR
        noise = torch.randn((len(SHOWN), 3, side, side), generator=generator("cascade base grid"))
        made = sampled(
            lambda seen, timestep: level.predict(seen, timestep, text),
            pixel_sampler("ddim", self.noise.config),
            noise.to(network.device),
            BASE_GUIDANCE,
        )
        return grid([*F.interpolate(made, scale_factor=FACTOR)], 8)


@dataclass(kw_only=True)
class SuperResolutionLesson(_PixelLesson):
    """Super-resolution; what it is given beside a noisy picture is made as for a photograph's, see `LowResolution`."""

    low: LowResolution
    batch: int = 8
    name = "cascade-sr"

    def _told(self, pixels: Sequence[Pictures], captions: Sequence[str], rng: torch.Generator) -> Told:
        clean = tensor(pixels)
        task = noised(self.noise, clean, rng)
        return Told(task, tokenized(self.tokenizer, captions), self.low.guide(clean, len(clean), rng))

    def picture(self, network: nn.Module) -> Image.Image:
        """Held-out scenes: enlarged as what is given, as super-resolution makes them, and as they are."""
        assert isinstance(network, UNet2DConditionModel)
        clean = tensor(list(self.heldout[:ENLARGED]), network.device)
        rng = generator("cascade sr grid")
        low = enlarged(reduced(clean, FACTOR), (SIZE, SIZE))
        given, noise = (torch.randn(clean.shape, generator=rng).to(network.device) for _ in range(2))
        labels = torch.full((len(clean),), NOISE_LEVEL, device=network.device)
        guide = Guide(self.low.scheduler.add_noise(low, given, labels).repeat(2, 1, 1, 1), labels.repeat(2))
        level = _level(network, self.noise)
        captions = [""] * len(clean) + [sample(i, "heldout").caption() for i in range(len(clean))]
        text = self._read(tokenized(self.tokenizer, captions))
        made = sampled(
            lambda seen, timestep: level.predict(seen, timestep, text, guide),
            pixel_sampler("ddim", self.noise.config),
            noise,
            GUIDANCE,
        )
        return grid([*low, *made, *clean], len(clean))


def _level(unet: nn.Module, noise: DDPMScheduler) -> Level:
    """The level that `imagic` itself makes of a UNet: what is trained here is what is run there."""
    return pixel_level("cascade", unet, schedule("cascade", noise.config), None)
