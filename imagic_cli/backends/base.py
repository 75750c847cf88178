"""The seam between the paper's stages and a family of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from imagic_cli.config import SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.noise import Schedule
from imagic_cli.precision import Precision

Predict = Callable[[Tensor, Tensor, Embedding], Tensor]
"""(x_t (B, C, H, W), timesteps (B,), embedding of B texts) -> prediction (B, C, H, W)."""


@dataclass(frozen=True)
class Level:
    """One trainable denoiser.

    Attributes:
        name: "base", or the cascade level's name.
        module: the nn.Module with its weights.
        schedule: its training noise and target.
        predict: what it computes, with `module`.
        conditioning: which embedding it is tuned at.
    """

    name: str
    module: Any
    schedule: Schedule
    predict: Predict
    conditioning: Literal["optimized", "target"] = "optimized"


class Codec(Protocol):
    """Pixels to what the denoiser works on, and back."""

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> clean samples."""

    def decode(self, clean: Tensor) -> Tensor:
        """Clean samples -> (B, 3, H, W), about [-1, 1]."""

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the clean sample of a picture of width x height pixels."""


@dataclass(frozen=True)
class Encoded:
    """A text's embedding, and the part of the text that did not fit the tokenizer's window."""

    embedding: Embedding
    cut: str = ""


@dataclass(frozen=True)
class Draw:
    """What makes one image, besides the settings that a call shares.

    Attributes:
        embedding: e_bar.
        noise: (C, h, w), standard normal.
        generator: on the CPU, for schedulers that add noise.
    """

    embedding: Embedding
    noise: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Blank:
    """The shapes of a denoising step, on the meta device: no weights, no values.

    Attributes:
        level: the denoiser.
        clean: a clean sample, (1, C, h, w).
        embedding: of one text.
    """

    level: Level
    clean: Tensor
    embedding: Embedding


class Backend(Protocol):
    """One family of models, loaded anew for every stage: nothing trained survives in it."""

    size: int
    """Side of the pictures that the model was trained on, pixels."""
    multiple: int
    """Width and height must be multiples of this, pixels."""
    timesteps: int
    """Noise levels of the model's schedule; a sampler takes no more steps than that."""

    def encode(self, texts: Sequence[str | None], device: torch.device) -> list[Encoded]:
        """Embed texts (None: the unconditional one), in fp32 on the CPU; the encoders are freed on return."""

    def codec(self, device: torch.device) -> Codec:
        """Load the codec."""

    def blank(self, width: int, height: int) -> Blank:
        """The shapes of a step on a picture of width x height pixels, for estimates."""

    def level(self, precision: Precision, trainable: bool) -> Level:
        """Load the denoiser: fp32 and requiring gradients when `trainable`, else frozen in the precision's format."""

    def render(
        self,
        level: Level,
        draws: Sequence[Draw],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """Text-to-image sampling with e_bar: clean samples (B, C, h, w), fp32 on the CPU."""

    def screen(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """The safety checker's verdict where the model has one: None for an image that it withholds."""
