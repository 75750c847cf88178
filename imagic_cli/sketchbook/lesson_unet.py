"""What the UNet learns: to take the noise out of a scene's latent, told its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from imagic_cli.sketchbook.corpus import Pictures, tensor
from imagic_cli.sketchbook.denoising import SHOWN, Told, heldout_loss, noised, sampled, worded
from imagic_cli.sketchbook.grid import grid
from imagic_cli.sketchbook.loop import generator
from imagic_cli.sketchbook.tokens import token_ids


def encoded(path: Path, network: AutoencoderKL, pictures: Pictures) -> torch.Tensor:
    """The mean latents (N, 4, 16, 16), unscaled float16, of `pictures`, kept at `path`."""
    if not path.exists():
        with torch.inference_mode():
            means = [
                network.encode(tensor(list(pictures[i : i + 64]), network.device)).latent_dist.mean.half().cpu()
                for i in range(0, len(pictures), 64)
            ]
        partial = path.with_suffix(".partial")
        save_file({"mean": torch.cat(means).contiguous()}, partial)
        partial.replace(path)
    with safe_open(path, "pt") as file:
        latents: torch.Tensor = file.get_tensor("mean")
    return latents


@dataclass
class UnetLesson:
    """Trains on unscaled `latents` (N, 4, h, w) of the first N training scenes, measured on `heldout` latents."""

    network: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    noise: DDIMScheduler
    latents: torch.Tensor
    heldout: torch.Tensor
    scale: float
    batch: int = 32
    name: str = "unet"

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Captions as the UNet reads them: (B, tokens, width)."""
        with torch.no_grad():
            hidden: torch.Tensor = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
        return hidden

    def draw(self, rng: torch.Generator) -> Told:
        """Scenes in one wording each, at timesteps spread evenly within the batch."""
        chosen = torch.randint(len(self.latents), (self.batch,), generator=rng)
        return self._told(self.latents[chosen], worded(chosen.tolist(), rng), rng)

    def loss(self, drawn: Told) -> torch.Tensor:
        """The mean square error of the velocity."""
        return self._error(self.network, drawn)

    def _told(self, latents: torch.Tensor, captions: Sequence[str], rng: torch.Generator) -> Told:
        return Told(noised(self.noise, latents.float() * self.scale, rng), token_ids(self.tokenizer, captions))

    def _error(self, network: nn.Module, drawn: Told) -> torch.Tensor:
        task = drawn.task.to(self.network.device)
        predicted = network(task.noisy, task.timesteps, encoder_hidden_states=self.embed(drawn.ids)).sample
        return F.mse_loss(predicted, task.target)

    def measure(self, network: nn.Module) -> dict[str, float]:
        """The loss on held-out scenes with their full captions and always the same noise."""
        return heldout_loss(
            self.name,
            len(self.heldout),
            lambda part, captions, rng: self._error(network, self._told(self.heldout[part], captions, rng)),
        )

    def picture(self, network: nn.Module) -> Image.Image:
        """One picture for each of `SHOWN`, guided, always from the same noise."""
        text = self.embed(token_ids(self.tokenizer, [""] * len(SHOWN) + list(SHOWN)))
        noise = torch.randn((len(SHOWN), *self.latents.shape[1:]), generator=generator("unet grid")).to(text.device)
        latents = sampled(
            lambda seen, timestep: network(seen, timestep, encoder_hidden_states=text).sample,
            DDIMScheduler.from_config(self.noise.config),
            noise,
        )
        return grid([*self.vae.decode(latents / self.scale).sample], 8)
