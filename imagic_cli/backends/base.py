"""The seam between the paper's stages and a family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from imagic_cli.config import SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.names import BASE
from imagic_cli.noise import Schedule
from imagic_cli.precision import Precision


@dataclass(frozen=True)
class Guide:
    """The smaller picture that a super-resolution level enlarges, as the level sees it.

    Attributes:
        picture: (B, 3, H, W), enlarged to the level's size, then noised.
        noise_level: (B,), the timestep that it was noised to.
    """

    picture: Tensor
    noise_level: Tensor


class Predict(Protocol):
    """The only thing that the stages know of a network."""

    def __call__(self, x_t: Tensor, timestep: Tensor, embedding: Embedding, guide: Guide | None = None) -> Tensor:
        """x_t (B, C, H, W), timesteps (B,), embedding of B texts, guide -> prediction (B, C, H, W)."""


def unguided(clean: Tensor, batch: int, generator: torch.Generator) -> Guide | None:
    """What a level that needs no smaller picture draws for it: nothing."""
    return None


@dataclass(frozen=True)
class Level:
    """One trainable denoiser.

    Attributes:
        name: `BASE`, or the cascade level's name.
        module: the nn.Module with its weights.
        schedule: its training noise and target.
        predict: what it computes, with `module`.
        guide: draws what it is given beside x_t in training: (clean (1, C, H, W), draws, generator) -> guide.
    """

    name: str
    module: Any
    schedule: Schedule
    predict: Predict
    guide: Callable[[Tensor, int, torch.Generator], Guide | None] = unguided


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
        embedding: e_bar, for the base.
        target: e_tgt, for the levels above it.
        seed: of all its noise; what differs between the images of one seed is e_bar alone.
    """

    embedding: Embedding
    target: Embedding
    seed: int


@dataclass(frozen=True)
class Pass:
    """One denoiser's part in sampling.

    Attributes:
        name: a level's, or that of one that is never trained.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 or less is off.
    """

    name: str
    steps: int
    guidance: float


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

    def prediction(self, embedding: Embedding, batch: int) -> Tensor:
        """What a pass over so many noised copies and one text gives."""
        timestep = torch.zeros(batch, dtype=torch.long, device="meta")
        noised = self.clean.expand(batch, *self.clean.shape[1:])
        guide = self.level.guide(self.clean, batch, torch.Generator())
        return self.level.predict(noised, timestep, embedding.expand(batch), guide)


class Backend(Protocol):
    """One family of models, loaded anew for every stage: nothing trained survives in it."""

    size: int
    """Side of the pictures that the model was trained on, pixels."""
    multiple: int
    """Width and height must be multiples of this, pixels."""
    levels: tuple[str, ...]
    """What stage B can train, the base first."""
    sizes: tuple[int, ...]
    """Where sampling can stop, as sides of the pictures that the model was made for; empty where it always ends."""

    def encode(self, texts: Sequence[str | None], device: torch.device) -> list[Encoded]:
        """Embed texts (None: the unconditional one), in fp32 on the CPU; the encoders are freed on return."""

    def codec(self, device: torch.device, name: str = BASE) -> Codec:
        """Load the codec of a level, or of another denoiser that `passes` names."""

    def blank(self, width: int, height: int, name: str = BASE) -> Blank:
        """The shapes of a denoiser's step for a photograph of width x height pixels, for estimates."""

    def level(self, precision: Precision, trainable: bool, name: str = BASE) -> Level:
        """Load a denoiser: fp32 and requiring gradients when `trainable`, else frozen in the precision's format."""

    def passes(self, sampling: SamplingSettings) -> tuple[Pass, ...]:
        """The denoisers that sampling runs through, in their order; the last one's codec decodes what comes out.

        Raises:
            UsageError: the model cannot be sampled so.
        """

    def render(
        self,
        levels: Mapping[str, Level],
        draws: Sequence[Draw],
        null: Embedding,
        sampling: SamplingSettings,
        size: tuple[int, int],
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """Text-to-image sampling with e_bar.

        Args:
            levels: those of `passes` that can be trained, by name.
            draws: which images.
            null: the unconditional embedding, or the negative text's.
            sampling: how.
            size: width and height of the photograph.
            precision: device and number format.
            on_step: called after each step of each denoiser.

        Returns:
            Clean samples of the last denoiser, (B, C, h, w), fp32 on the CPU.
        """

    def screen(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """What may be shown: None for an image that the model's safety checker, where it has one, withholds.

        Where the model comes with a watermark, the others carry it.
        """
