"""Text alignment: how well a picture fits a text, as a CLIP model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from imagic_cli.backends import quiet_libraries
from imagic_cli.errors import ModelError


class ClipScore:
    """100 x the cosine of a picture's and a text's CLIP embeddings, not below 0 (Hessel et al., 2021, w = 100).

    Scores of different CLIP models cannot be compared.

    Args:
        source: a folder or a hub id that holds a `CLIPModel` with its tokenizer and image processor.
        name: what figures made with it are called after; None is `source`.

    Raises:
        ModelError: there is none.
    """

    def __init__(self, source: str | Path, name: str | None = None) -> None:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        quiet_libraries()
        self.name = name or str(source)
        try:
            self._model: Any = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
            self._model.eval()
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(source)
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ModelError(f"{source} is no CLIP model that can be loaded", "name its folder or hub id") from error

    def __call__(self, images: Sequence[Image.Image], text: str) -> list[float]:
        """The score of each picture with one text."""
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values
        window = self._model.config.text_config.max_position_embeddings
        words = self._tokenizer([text], truncation=True, max_length=window, return_tensors="pt")
        with torch.inference_mode():
            output = self._model(input_ids=words.input_ids, pixel_values=pixels)
        cosines = output.image_embeds @ output.text_embeds.T
        return [100 * max(0.0, float(cosine)) for cosine in cosines[:, 0]]
