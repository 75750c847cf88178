"""Stable Diffusion XL: two text encoders, a pooled embedding, and time ids."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from imagic_cli.backends.components import load_encoder, tokenizer
from imagic_cli.backends.latent import LatentBackend
from imagic_cli.embedding import Embedding


class StableDiffusionXL(LatentBackend):
    """Stage A optimises tokens and pooled embedding both: the paper leaves open what is right here."""

    pipeline_class = StableDiffusionXLPipeline
    image_pipeline_class = StableDiffusionXLImg2ImgPipeline

    def text_components(self, device: torch.device) -> dict[str, Any]:
        """Both tokenizers and text encoders."""
        return {
            "tokenizer": tokenizer(self.model, "tokenizer", "text_encoder"),
            "tokenizer_2": tokenizer(self.model, "tokenizer_2", "text_encoder_2"),
            "text_encoder": load_encoder(self.model, CLIPTextModel, "text_encoder", device),
            "text_encoder_2": load_encoder(self.model, CLIPTextModelWithProjection, "text_encoder_2", device),
        }

    def embed(self, pipeline: Any, text: str | None, device: torch.device) -> Embedding:
        """(1, T, d) and (1, p); the unconditional embedding is zeros where the model was trained so."""
        tokens, null, pooled, null_pooled = pipeline.encode_prompt(text or "", device=device)
        return Embedding(null, null_pooled) if text is None else Embedding(tokens, pooled)

    def conditions(self, x_t: Tensor, embedding: Embedding) -> dict[str, Tensor] | None:
        """Pooled embedding, and time ids that say: this size, uncropped."""
        assert embedding.pooled is not None
        height, width = (side * self.factor for side in x_t.shape[-2:])
        # Made where it is used: a graph of the step cannot hold a copy from the CPU.
        time_ids = torch.cat(
            [x_t.new_full((len(x_t), 1), side) for side in (height, width, 0, 0, height, width)], dim=1
        )
        return {"text_embeds": embedding.pooled, "time_ids": time_ids}

    def blank_pooled(self) -> Tensor:
        """(1, p)."""
        return torch.empty(1, self.model.config("text_encoder_2")["projection_dim"])

    def arguments(self, embedding: Embedding, null: Embedding) -> dict[str, Tensor | None]:
        """Positive and negative tokens and pooled embeddings."""
        return {
            "prompt_embeds": embedding.tokens,
            "negative_prompt_embeds": null.tokens,
            "pooled_prompt_embeds": embedding.pooled,
            "negative_pooled_prompt_embeds": null.pooled,
        }

    def pipeline_options(self) -> dict[str, Any]:
        """Whether the unconditional embedding is zeros; and never a watermark, which needs pixels."""
        zeros = self.model.index.get("force_zeros_for_empty_prompt", True)
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
