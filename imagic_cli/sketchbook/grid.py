"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image


def grid(pictures: Sequence[torch.Tensor], columns: int) -> Image.Image:
    """RGB of float (3, H, W) pictures in [-1, 1], row by row with a 2-pixel gap."""
    height, width = pictures[0].shape[1:]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)), "white")
    for i, picture in enumerate(pictures):
        pixels = picture.detach().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        sheet.paste(Image.fromarray(pixels), (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet
