"""What a model's makers want done with its pictures before they are shown: a safety checker, a watermark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagic_cli.backends.components import load, loading
from imagic_cli.backends.source import Model


class Screen:
    """A model's safety checker, where it comes with one.

    Args:
        model: where it lies.
        kind: its class; it judges (clip_input, images) and returns the images and, for each, one flag or more.
    """

    def __init__(self, model: Model, kind: Any) -> None:
        self.model = model
        self.kind = kind

    def __call__(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """The pictures, and None for each that any flag is raised over."""
        if not self.model.has("safety_checker"):
            return list(images)
        checker, features = self._checker
        seen = features(list(images), return_tensors="pt").pixel_values.to(device)
        # It blackens what it flags in the arrays that it is given; only its verdict is used.
        arrays = [np.asarray(image, dtype=np.float32) / 255 for image in images]
        with torch.no_grad():
            _blackened, *verdicts = checker.to(device)(images=arrays, clip_input=seen)
        # Its memory on the device belongs to the next batch.
        checker.to("cpu")
        return [None if any(flags) else image for image, *flags in zip(images, *verdicts, strict=True)]

    @cached_property
    def _checker(self) -> tuple[Any, Any]:
        from transformers import CLIPImageProcessor

        checker = load(self.model, self.kind, "safety_checker", torch.float32).eval()
        with loading(self.model, "feature_extractor"):
            return checker, CLIPImageProcessor.from_pretrained(self.model.folder / "feature_extractor")


class Watermark:
    """A model's visible mark in the lower right corner, where it comes with one.

    Args:
        model: where it lies.
        kind: its class, which pastes it as the model's own pipeline does.
    """

    # The mark is 62 pixels wide in a picture of 1024, and in proportion in others: below this it has no pixel.
    _SMALLEST = 17

    def __init__(self, model: Model, kind: Any) -> None:
        self.model = model
        self.kind = kind

    def __call__(self, images: Sequence[Image.Image | None]) -> list[Image.Image | None]:
        """The pictures with the mark; None stays None."""
        if self.model.has("watermarker"):
            for image in images:
                if image is not None and min(image.size) >= self._SMALLEST:
                    # Told the shorter side, it keeps to the picture whatever its shape is.
                    self._marker.apply_watermark([image], min(image.size))
        return list(images)

    @cached_property
    def _marker(self) -> Any:
        return load(self.model, self.kind, "watermarker", torch.float32)
