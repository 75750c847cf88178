"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from imagic_cli.backends.components import load_encoder, tokenizer
from imagic_cli.backends.latent import LatentBackend
from imagic_cli.embedding import Embedding


class StableDiffusion(LatentBackend):
    """One CLIP text encoder; the UNet sees nothing but its tokens."""

    pipeline_class = StableDiffusionPipeline
    image_pipeline_class = StableDiffusionImg2ImgPipeline

    def text_components(self, device: torch.device) -> dict[str, Any]:
        """Tokenizer and text encoder."""
        return {
            "tokenizer": tokenizer(self.model, "tokenizer", "text_encoder"),
            "text_encoder": load_encoder(self.model, CLIPTextModel, "text_encoder", device),
        }

    def embed(self, pipeline: Any, text: str | None, device: torch.device) -> Embedding:
        """(1, T, d); the unconditional embedding is the empty text's."""
        tokens, _negative = pipeline.encode_prompt(text or "", device, 1, do_classifier_free_guidance=False)
        return Embedding(tokens)

    def conditions(self, x_t: Tensor, embedding: Embedding) -> dict[str, Tensor] | None:
        """None."""
        return None

    def arguments(self, embedding: Embedding, null: Embedding) -> dict[str, Tensor | None]:
        """Positive and negative tokens."""
        return {"prompt_embeds": embedding.tokens, "negative_prompt_embeds": null.tokens}
