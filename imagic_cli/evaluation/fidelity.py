"""Fidelity: how near a picture is to another of its size."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Mask = NDArray[np.bool_]
SMALLEST_MS_SSIM = 160


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

    found = structural_similarity_index_measure(*_tensors(a, b), data_range=1.0)
    assert isinstance(found, torch.Tensor)
    return float(found)


def ms_ssim(a: Image.Image, b: Image.Image) -> float:
    """Multi-scale structural similarity (Wang et al., 2003) over RGB, 1 for equal pictures.

    Raises:
        ValueError: the sizes differ, or a side is not above 160 pixels: five scales need that.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    if min(a.size) <= SMALLEST_MS_SSIM:
        raise ValueError(f"MS-SSIM needs sides above {SMALLEST_MS_SSIM} pixels")
    found = multiscale_structural_similarity_index_measure(*_tensors(a, b), data_range=1.0)
    return float(found)


def one_minus_lpips(a: Image.Image, b: Image.Image) -> float | None:
    """1 - LPIPS (Zhang et al., 2018) with AlexNet, the paper's measure of fidelity.

    None where the `metrics` extra is not installed, or its weights cannot be had.
    """
    network = _lpips()
    if network is None:
        return None
    first, second = (each.float() * 2 - 1 for each in _tensors(a, b))
    with torch.no_grad():
        return 1 - float(network(first, second))


@cache
def _lpips() -> Any:
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex").eval()
    except (ImportError, OSError):
        return None


def measures(picture: Image.Image, source: Image.Image) -> dict[str, float]:
    """Every fidelity figure that can be had for two pictures of one size, by its full name.

    `psnr_db` of equal pictures is 99, less than one grey level in a whole photograph: tables know no infinity.
    """
    found = {"psnr_db": min(99.0, psnr(picture, source)), "ssim": ssim(picture, source)}
    if min(picture.size) > SMALLEST_MS_SSIM:
        found["ms_ssim"] = ms_ssim(picture, source)
    perceptual = one_minus_lpips(picture, source)
    return found if perceptual is None else found | {"1-lpips[alex]": perceptual}


def _tensors(a: Image.Image, b: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels cannot be compared")
    first, second = (
        torch.from_numpy(np.array(each.convert("RGB"), np.float64) / 255).permute(2, 0, 1)[None] for each in (a, b)
    )
    return first, second


def unchanged(before: Image.Image, after: Image.Image, margin: int) -> Mask:
    """(H, W): pixels that are equal in two pictures, and no nearer than `margin` pixels to one that is not."""
    changed = np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).max(axis=2) > 0
    grown = Image.fromarray(changed.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * margin + 1))
    same: Mask = np.asarray(grown) == 0
    return same
