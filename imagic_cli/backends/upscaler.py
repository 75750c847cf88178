"""The latent upscaler that ends a cascade: pretrained, never tuned, with a text encoder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionUpscalePipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from imagic_cli.backends.base import Blank, Guide, Level
from imagic_cli.backends.components import assemble, load, load_encoder, loading, tokenizer
from imagic_cli.backends.latent import LatentCodec
from imagic_cli.backends.schedulers import sampler, schedule
from imagic_cli.backends.source import Model
from imagic_cli.config import EnlargeSettings
from imagic_cli.embedding import Embedding
from imagic_cli.memory import release
from imagic_cli.precision import Precision

# The pipeline's own numbers, but for the noise level: IF's makers give it pictures of their own making at 100.
USUAL = EnlargeSettings(steps=75, guidance=9.0, noise_level=100)


class Upscaler:
    """`StableDiffusionUpscalePipeline` around its parts; its UNet works at the size of the picture it is given.

    Args:
        model: where it lies.
    """

    name = "upscaler"

    def __init__(self, model: Model) -> None:
        self.model = model
        # What is not whole is refused now, and not after the base has been sampled.
        vae, unet, *_ = (model.config(each) for each in ("vae", "unet", "scheduler", "low_res_scheduler"))
        with loading(model, "config"):
            self.factor = 2 ** (len(vae["block_out_channels"]) - 1)
            self.multiple = 2 ** (len(unet["block_out_channels"]) - 1)
        self._codecs: dict[torch.device, LatentCodec] = {}
        self._unets: dict[Precision, Any] = {}

    def encode(self, texts: Sequence[str | None], device: torch.device) -> list[Tensor]:
        """(1, U, u) for each text (None: the empty one's), in fp32 on the CPU; the encoder is freed on return."""
        pipeline = assemble(
            StableDiffusionUpscalePipeline,
            {
                "tokenizer": tokenizer(self.model, "tokenizer", "text_encoder"),
                "text_encoder": load_encoder(self.model, CLIPTextModel, "text_encoder", device),
            },
        )
        with torch.no_grad():
            found = [pipeline.encode_prompt(text or "", device, 1, False)[0].to("cpu", torch.float32) for text in texts]
        del pipeline
        release(device)
        return found

    def blank_text(self) -> Tensor:
        """(1, U, u)."""
        config = self.model.config("text_encoder")
        return torch.empty(1, self.model.config("tokenizer")["model_max_length"], config["hidden_size"])

    def codec(self, device: torch.device) -> LatentCodec:
        """Load its VAE: width and height are those of the picture that comes out."""
        if device not in self._codecs:
            vae = load(self.model, AutoencoderKL, "vae", torch.float32)
            self._codecs[device] = LatentCodec(vae.eval().requires_grad_(False).to(device), self.factor)
        return self._codecs[device]

    def blank(self, width: int, height: int, embedding: Embedding) -> Blank:
        """The shapes of a step on a picture of width x height pixels; the caller is on the meta device."""
        unet = UNet2DConditionModel.from_config(self.model.config("unet"))

        def predict(x_t: Tensor, timestep: Tensor, embedding: Embedding, guide: Guide | None = None) -> Tensor:
            assert embedding.upscaler is not None
            seen = torch.cat([x_t, x_t.new_empty(len(x_t), 3, *x_t.shape[-2:])], dim=1)
            output: Tensor = unet(seen, timestep, embedding.upscaler, class_labels=timestep).sample
            return output

        clean = torch.empty(1, self.model.config("vae")["latent_channels"], height, width)
        level = Level(self.name, unet, schedule(self.model.name, self.model.config("scheduler")), predict)
        return Blank(level, clean, embedding)

    def render(
        self,
        pictures: Tensor,
        target: Embedding,
        null: Embedding,
        settings: EnlargeSettings,
        precision: Precision,
        generators: list[torch.Generator],
        on_step: Callable[[], None],
    ) -> Tensor:
        """Latents (B, C, H, W), fp32 on the CPU, of enlarged pictures (B, 3, H, W) in about [-1, 1]."""
        pipeline = assemble(
            StableDiffusionUpscalePipeline,
            {
                "vae": self.codec(precision.device).vae,
                "unet": self._unet(precision),
                "scheduler": sampler("ddim", self.model.config("scheduler")),
                "low_res_scheduler": DDPMScheduler.from_config(self.model.config("low_res_scheduler")),
            },
            max_noise_level=self.model.index.get("max_noise_level", 350),
        )
        with torch.no_grad():
            latents: Tensor = pipeline(
                # In [0, 1], which the pipeline's own processor takes back to [-1, 1].
                image=(pictures.float() / 2 + 0.5).clamp(0, 1),
                prompt_embeds=target.upscaler,
                negative_prompt_embeds=null.upscaler,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                noise_level=settings.noise_level,
                generator=generators,
                output_type="latent",
                callback=lambda *_: on_step(),
            ).images
        return latents.float().cpu()

    def _unet(self, precision: Precision) -> Any:
        # Read once for all the images of a call.
        if precision not in self._unets:
            unet = load(self.model, UNet2DConditionModel, "unet", precision.dtype)
            self._unets[precision] = unet.eval().requires_grad_(False).to(precision.device)
        return self._unets[precision]
