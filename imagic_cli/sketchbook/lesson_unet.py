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
from imagic_cli.sketchbook.grid import grid
from imagic_cli.sketchbook.lesson_clip import token_ids, variants
from imagic_cli.sketchbook.loop import generator
from imagic_cli.sketchbook.scenes import sample

# A caption is dropped this often, so that guidance has an unconditional prediction to push away from.
DROPPED = 0.1
GUIDANCE = 4.0
SHOWN = (
    "a red bird perched on grass",
    "a bird spreading wings",
    "a blue bird flying at night",
    "two green parrots kissing",
    "two parrots apart in the snow",
    "a brown dog sitting on grass",
    "a dog jumping on sand",
    "an orange cat lying down in a room",
    "a goat jumping over a cat",
    "a white horse with a saddle on grass",
    "a zebra with its head down",
    "a person in a red shirt waving",
    "a person giving a thumbs up at night",
    "a person with crossed arms in autumn",
    "a chocolate cake with candles in a room",
    "a strawberry wedding cake",
    "a slice of pistachio cake on grass",
    "a round tree in autumn",
    "a tall tree in winter at night",
    "a blue house in winter",
    "a red house in spring on grass",
    "a bird by a waterfall",
    "a pencil sketch of a cat sitting",
    "a children's drawing of a house in summer",
)


def encoded(path: Path, network: AutoencoderKL, pictures: Pictures) -> torch.Tensor:
    """The mean latents (N, 4, 16, 16), unscaled float16, of `pictures`, kept at `path`."""
    if not path.exists():
        with torch.inference_mode():
            means = [
                network.encode(tensor(list(pictures[i : i + 32]), network.device)).latent_dist.mean.half().cpu()
                for i in range(0, len(pictures), 32)
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

    def embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions as the UNet reads them: (B, tokens, width)."""
        with torch.no_grad():
            ids = token_ids(self.tokenizer, captions).to(self.text_encoder.device)
            hidden: torch.Tensor = self.text_encoder(ids).last_hidden_state
        return hidden

    def loss(self, rng: torch.Generator) -> torch.Tensor:
        """The mean square error of the velocity, over timesteps spread evenly within the batch."""
        chosen = torch.randint(len(self.latents), (self.batch,), generator=rng)
        said, dropped = variants(self.batch, rng), torch.rand(self.batch, generator=rng) < DROPPED
        captions = [
            "" if drop else sample(int(i), "train").caption(variant)
            for i, variant, drop in zip(chosen, said, dropped, strict=True)
        ]
        return self._error(self.network, self.latents[chosen], captions, rng)

    def _error(
        self, network: nn.Module, latents: torch.Tensor, captions: Sequence[str], rng: torch.Generator
    ) -> torch.Tensor:
        count = len(latents)
        clean = latents.float() * self.scale
        spread = (torch.arange(count) + torch.rand(count, generator=rng)) / count
        timesteps = (spread * self.noise.config["num_train_timesteps"]).long()
        noise = torch.randn(clean.shape, generator=rng)
        noisy = self.noise.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        target = self.noise.get_velocity(clean, noise, timesteps)
        text, device = self.embed(captions), self.network.device
        predicted = network(noisy.to(device), timesteps.to(device), encoder_hidden_states=text).sample
        return F.mse_loss(predicted, target.to(device))

    def measure(self, network: nn.Module) -> dict[str, float]:
        """The loss on held-out scenes with their full captions and always the same noise."""
        losses = []
        for start in range(0, len(self.heldout), 32):
            latents = self.heldout[start : start + 32]
            captions = [sample(start + i, "heldout").caption() for i in range(len(latents))]
            losses.append(float(self._error(network, latents, captions, generator("unet held out", start))))
        return {"heldout_loss": sum(losses) / len(losses)}

    def picture(self, network: nn.Module) -> Image.Image:
        """One picture for each of `SHOWN`, guided, always from the same noise."""
        latents = self._sampled(network, SHOWN, generator("unet grid"))
        return grid([*self.vae.decode(latents / self.scale).sample], 8)

    def _sampled(self, network: nn.Module, captions: Sequence[str], rng: torch.Generator) -> torch.Tensor:
        text = torch.cat([self.embed([""] * len(captions)), self.embed(captions)])
        latents = torch.randn((len(captions), *self.latents.shape[1:]), generator=rng).to(text.device)
        noise = DDIMScheduler.from_config(self.noise.config)
        noise.set_timesteps(25)
        for timestep in noise.timesteps:
            free, told = network(latents.repeat(2, 1, 1, 1), timestep, encoder_hidden_states=text).sample.chunk(2)
            latents = noise.step(free + GUIDANCE * (told - free), timestep, latents).prev_sample
        return latents
