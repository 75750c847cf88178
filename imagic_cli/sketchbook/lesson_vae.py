"""What the autoencoder learns: to give a scene back, whole or a crop of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import nn

from imagic_cli.sketchbook.corpus import Pictures, floats, stacked, tensor
from imagic_cli.sketchbook.grid import grid

CROP = 64
KL_WEIGHT = 3e-4
# Crops show more scenes for the same work; this share of the steps sees whole pictures, because group norms average
# over what they see.
WHOLE_SHARE = 0.5
# Half of a picture is flat: of so many places for a crop, the one with the most strokes in it is learned from.
PLACES = 4
# Absolute differences let small things go, eyes first; the root of the mean square does not, and is what PSNR measures.
ABSOLUTE_WEIGHT, ROOT_WEIGHT = 0.3, 2.0


class Crops(NamedTuple):
    """Pieces of scenes, uint8 (B, H, W, 3), and unit noise for their latents (B, 4, h, w)."""

    pixels: torch.Tensor
    noise: torch.Tensor


@dataclass
class VaeLesson:
    """Trains on `pictures`, measured on `heldout`: uint8 (N, H, W, 3) both; `batch` crops a step."""

    network: AutoencoderKL
    pictures: Pictures
    heldout: Pictures
    batch: int = 8
    name: str = "vae"

    def draw(self, rng: torch.Generator) -> Crops:
        """Crops with strokes in them, or now and then whole scenes."""
        side = self.pictures.shape[1]
        whole = float(torch.rand((), generator=rng)) < WHOLE_SHARE
        crop, count = (side, max(1, self.batch // 4)) if whole else (min(CROP, side), self.batch)
        chosen = torch.randint(len(self.pictures), (count,), generator=rng).tolist()
        # Crops start on the autoencoder's own stride, where the strokes of the styles repeat.
        places = 1 if whole else PLACES
        corners = (torch.randint((side - crop) // 8 + 1, (count, places, 2), generator=rng) * 8).tolist()
        pixels = [
            max((self.pictures[i, y : y + crop, x : x + crop] for y, x in each), key=_strokes)
            for i, each in zip(chosen, corners, strict=True)
        ]
        side = crop // 2 ** (len(self.network.config["block_out_channels"]) - 1)
        noise = torch.randn((count, self.network.config["latent_channels"], side, side), generator=rng)
        return Crops(stacked(pixels), noise)

    def loss(self, drawn: Crops) -> torch.Tensor:
        """How far a crop comes back from itself, with a light pull of its latent towards a unit normal."""
        clean = floats(drawn.pixels, self.network.device)
        posterior = self.network.encode(clean).latent_dist
        recovered = self.network.decode(posterior.mean + posterior.std * drawn.noise.to(clean.device)).sample
        normal = (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean() / 2
        loss: torch.Tensor = _distance(recovered, clean) + KL_WEIGHT * normal
        return loss

    def measure(self, network: nn.Module) -> dict[str, float]:
        """PSNR in dB of reconstructions from the mean latent, and how widely the latent channels spread."""
        assert isinstance(network, AutoencoderKL)
        ratios, latents = [], []
        for start in range(0, len(self.heldout), 16):
            clean = tensor(list(self.heldout[start : start + 16]), network.device)
            latent = network.encode(clean).latent_dist.mean
            error = (network.decode(latent).sample.clamp(-1, 1) - clean).square().mean(dim=(1, 2, 3))
            ratios.append(10 * torch.log10(4 / error))
            latents.append(latent)
        every = torch.cat(latents)
        spread = every.std(dim=(0, 2, 3))
        return {
            "psnr_db": float(torch.cat(ratios).mean()),
            "psnr_worst_db": float(torch.cat(ratios).min()),
            "latent_std": float(every.std()),
            "latent_std_least": float(spread.min()),
            "latent_std_most": float(spread.max()),
        }

    def picture(self, network: nn.Module) -> Image.Image:
        """Held-out scenes above what the autoencoder gives back."""
        assert isinstance(network, AutoencoderKL)
        clean = tensor(list(self.heldout[:16]), network.device)
        recovered = network.decode(network.encode(clean).latent_dist.mean).sample
        return grid([*clean[:8], *recovered[:8], *clean[8:], *recovered[8:]], 8)


def _strokes(pixels: Pictures) -> float:
    """How much a picture changes from each pixel to the next, of uint8 (H, W, 3)."""
    values = pixels.astype(np.float32)
    return float(sum(np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1)))


def _distance(recovered: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The root of each picture's mean square error, and L1 of pixels, of their differences and of local means."""
    root = (recovered - clean).square().mean(dim=(1, 2, 3)).add(1e-5).sqrt().mean()
    pixels = F.l1_loss(recovered, clean)
    edges = sum(F.l1_loss(recovered.diff(dim=d), clean.diff(dim=d)) for d in (2, 3))
    # Colour is a small share of the pixel loss and would come last without a term of its own.
    colours = F.l1_loss(F.avg_pool2d(recovered, 8), F.avg_pool2d(clean, 8))
    distance: torch.Tensor = ROOT_WEIGHT * root + ABSOLUTE_WEIGHT * (pixels + edges + colours)
    return distance
