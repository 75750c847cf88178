"""Fidelity: how near a picture is to another of its size."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Mask = NDArray[np.bool_]


def psnr(a: Image.Image, b: Image.Image, where: Mask | None = None) -> float:
    """Peak signal-to-noise ratio over the RGB pixels in dB; infinite for equal pictures.

    Args:
        a: a picture.
        b: another of its size.
        where: (H, W), which pixels count; None is all.

    Raises:
        ValueError: the sizes differ, or no pixel counts.
    """
    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels cannot be compared")
    difference = np.asarray(a.convert("RGB"), np.float64) - np.asarray(b.convert("RGB"), np.float64)
    if where is not None:
        difference = difference[where]
    if difference.size == 0:
        raise ValueError("no pixel to compare")
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Image.Image, b: Image.Image) -> float:
    """Structural similarity (Wang et al., 2004) over RGB, 1 for equal pictures.

    Raises:
        ValueError: the sizes differ.
    """
    # Its import costs seconds and brings transformers along.
    from torchmetrics.functional.image import structural_similarity_index_measure

    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels cannot be compared")
    first, second = (
        torch.from_numpy(np.array(each.convert("RGB"), np.float64) / 255).permute(2, 0, 1)[None] for each in (a, b)
    )
    found = structural_similarity_index_measure(first, second, data_range=1.0)
    assert isinstance(found, torch.Tensor)
    return float(found)


def unchanged(before: Image.Image, after: Image.Image, margin: int) -> Mask:
    """(H, W): pixels that are equal in two pictures, and no nearer than `margin` pixels to one that is not."""
    changed = np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).max(axis=2) > 0
    grown = Image.fromarray(changed.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * margin + 1))
    same: Mask = np.asarray(grown) == 0
    return same
