"""The four ways a scene is rendered, each a function of the flat supersampled picture."""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]

# Strokes repeat every 8 final pixels, the stride of the autoencoder, so that they cost it no latent detail.
STROKE_PERIOD = 8
PAPER = np.array([250, 248, 242], dtype=np.float32)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def restyle(flat: Image.Image, style: str, supersampling: int, rng: Random) -> Image.Image:
    """`flat` (RGB, W x H) in one of the four styles, same size. Raises KeyError for an unknown style."""
    if style == "plain":
        return flat
    pixels = np.asarray(flat, dtype=np.float32)
    styled = {"child": _child, "pencil": _pencil, "cartoon": _cartoon}[style](pixels, supersampling, rng)
    return Image.fromarray(np.clip(styled + 0.5, 0, 255).astype(np.uint8))


def _edges(pixels: FloatArray, width: int) -> FloatArray:
    """1 where two flat colours meet within `width` pixels, 0 elsewhere: (H, W, 1)."""
    edge = np.zeros(pixels.shape[:2], dtype=np.float32)
    down = np.abs(pixels[width:] - pixels[:-width]).max(axis=2) > 12
    right = np.abs(pixels[:, width:] - pixels[:, :-width]).max(axis=2) > 12
    half = width // 2
    edge[half : half + down.shape[0]] = down
    edge[:, half : half + right.shape[1]] = np.maximum(edge[:, half : half + right.shape[1]], right)
    return edge[..., None]


def _strokes(shape: tuple[int, ...], supersampling: int) -> FloatArray:
    """A diagonal wave in [0, 1] over (H, W, 1)."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    wave = 0.5 + 0.5 * np.sin((x + y) * (2 * math.pi / (STROKE_PERIOD * supersampling)))
    return np.asarray(wave, dtype=np.float32)[..., None]


def _pencil(pixels: FloatArray, supersampling: int, rng: Random) -> FloatArray:
    darkness = 1 - (pixels @ LUMA)[..., None] / 255
    tone = darkness * (0.62 + 0.2 * _strokes(pixels.shape, supersampling))
    line = _edges(pixels, 4 * supersampling // 3) * 0.85
    graphite = np.array([60, 60, 68], dtype=np.float32)
    cover = np.maximum(tone, line)
    return np.asarray(PAPER * (1 - cover) + graphite * cover, dtype=np.float32)


def _cartoon(pixels: FloatArray, supersampling: int, rng: Random) -> FloatArray:
    grey = pixels.mean(axis=2, keepdims=True)
    vivid = np.clip(grey + (pixels - grey) * 1.35, 0, 255)
    return np.asarray(vivid * (1 - _edges(pixels, 5 * supersampling // 3)), dtype=np.float32)


def _child(pixels: FloatArray, supersampling: int, rng: Random) -> FloatArray:
    height, width = pixels.shape[:2]
    phases = [rng.uniform(0, 2 * math.pi) for _ in range(4)]
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    reach = 1.1 * supersampling
    sway = reach * (np.sin(rows / height * 19 + phases[0]) + np.sin(rows / height * 31 + phases[1]))
    bob = reach * (np.sin(columns / width * 17 + phases[2]) + np.sin(columns / width * 29 + phases[3]))
    y = np.clip(rows[:, None] + bob[None, :], 0, height - 1).astype(np.int64)
    x = np.clip(columns[None, :] + sway[:, None], 0, width - 1).astype(np.int64)
    wobbly = pixels[y, x]
    line = _edges(wobbly, 4 * supersampling // 3)
    cover = 0.76 + 0.24 * _strokes(pixels.shape, supersampling)
    crayon = PAPER * (1 - cover) + wobbly * cover
    return np.asarray(crayon * (1 - line) + wobbly * 0.55 * line, dtype=np.float32)
