"""Pictures: a photograph becomes what a model takes, and what a model gives becomes a picture."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from imagic_cli.errors import InputError, NumberError, UsageError
from imagic_cli.photo import Photo

if TYPE_CHECKING:
    import torch


def prepare(
    photo: Photo,
    size: int,
    multiple: int,
    fit: Literal["keep", "crop", "pad"],
    center: tuple[float, float] = (0.5, 0.5),
) -> tuple[Image.Image, tuple[str, ...]]:
    """Bring a photograph to the size a model takes.

    Args:
        size: side of the square, or of the square with the picture's area, in pixels.
        multiple: what both sides must divide by, in pixels.
        fit: "keep" the aspect ratio, "crop" to a square, or "pad" to a square.
        center: where cropping keeps the picture, as fractions of its width and height.

    Returns:
        The picture in mode RGB, and what had to be decided, one line each.

    Raises:
        UsageError: `size` does not divide by `multiple`, or `center` lies outside the picture.
        InputError: "keep" of a picture more than twice as long as it is wide, or as it is high.
    """
    _check_request(size, multiple, center)
    image = Image.fromarray(photo.pixels)
    width, height = image.size
    if fit == "pad":
        scale = size / max(width, height)
        fitted = _padded(image, size, scale)
    else:
        target = (size, size) if fit == "crop" else _kept_sides(width, height, size, multiple)
        scale = max(target[0] / width, target[1] / height)
        fitted = _covering(image, target, scale, center)
    notes = [f"enlarged from {width}x{height}"] if scale > 1 else []
    if fit == "keep" and (cut := _cut(image.size, fitted.size)):
        notes.append(cut)
    return fitted, tuple(notes)


def _check_request(size: int, multiple: int, center: tuple[float, float]) -> None:
    if size < multiple or size % multiple:
        below = size // multiple * multiple
        valid = [str(side) for side in (below, below + multiple) if side >= multiple] or [str(multiple)]
        raise UsageError(f"--size {size} is not a multiple of {multiple}", f"try {' or '.join(valid)}")
    if not all(0 <= fraction <= 1 for fraction in center):
        raise UsageError(
            f"--center {center[0]:g} {center[1]:g} is outside the picture", "give two fractions from 0 to 1"
        )


def _kept_sides(width: int, height: int, size: int, multiple: int) -> tuple[int, int]:
    if max(width, height) > 2 * min(width, height):
        raise InputError(f"the picture is {width}x{height}, longer than 2:1", "choose --fit crop or --fit pad")
    ratio = math.sqrt(width / height)
    wide, high = (max(1, math.floor(side / multiple + 0.5)) * multiple for side in (size * ratio, size / ratio))
    return wide, high


def _cut(before: tuple[int, int], after: tuple[int, int]) -> str:
    # What the sides' multiple takes off; a few pixels need no word.
    scale = max(new / old for old, new in zip(before, after, strict=True))
    gone = {side: 1 - new / scale / old for side, old, new in zip(("width", "height"), before, after, strict=True)}
    side = max(gone, key=lambda name: gone[name])
    return f"{gone[side]:.0%} of its {side} is cut; --fit pad keeps all of it" if gone[side] >= 0.03 else ""


def _covering(image: Image.Image, target: tuple[int, int], scale: float, center: tuple[float, float]) -> Image.Image:
    """Cut the part of `target`'s shape around `center`, and scale it: in one step, so that nothing is blurred twice."""
    box = []
    for whole, side, fraction in zip(image.size, target, center, strict=True):
        part = min(side / scale, whole)
        # Whole pixels, so that cutting alone leaves the pixels as they are.
        start = min(max(0, round(fraction * whole - part / 2)), math.floor(whole - part))
        box.append((start, min(start + part, whole)))
    (left, right), (top, bottom) = box
    return image.resize(target, Image.Resampling.LANCZOS, box=(left, top, right, bottom))


def _padded(image: Image.Image, size: int, scale: float) -> Image.Image:
    # The border pixels are repeated: white bars would put an edge into the latents that the photograph does not have,
    # which the embedding then spends itself on and which models continue as a picture frame.
    inner = [max(1, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize((inner[0], inner[1]), Image.Resampling.LANCZOS))
    before = [(size - side) // 2 for side in inner]
    (left, top), (right, bottom) = before, [size - side - gap for side, gap in zip(inner, before, strict=True)]
    return Image.fromarray(np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge"))


def pixels_digest(image: Image.Image) -> str:
    """SHA-256 (hex) of the picture's size and RGB pixels, the same for every file that holds them."""
    content = hashlib.sha256(f"RGB {image.width}x{image.height} ".encode())
    content.update(image.convert("RGB").tobytes())
    return content.hexdigest()


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The picture as (1, 3, H, W) float32 in [-1, 1], rounded as diffusers rounds it."""
    import torch

    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return (2.0 * (pixels.to(torch.float32) / 255.0) - 1.0).contiguous()


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) of any float type, clamped to [-1, 1], as RGB pictures, rounded to the nearest level.

    Raises:
        NumberError: a sample is not a finite number; as a picture it would silently be black.
    """
    import torch

    if not torch.isfinite(pixels).all():
        raise NumberError("a picture came out with samples that are not finite numbers", "try --dtype fp32")
    levels = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
