"""Small copies of pictures for inside a page."""

from __future__ import annotations

import base64
import io
import math

from PIL import Image

# Of one preview, in pixels, and of all previews of a page together, before base64 makes four bytes of three.
MOST_SIDE = 512
MOST_BYTES = 16 * 2**20
_SMALLEST_SIDE = 8
_QUALITIES = (82, 60, 40)


def preview(image: Image.Image, most_bytes: int) -> str:
    """The picture as a WebP data URI: no side above `MOST_SIDE` pixels, and less where it would not fit.

    Args:
        image: the picture.
        most_bytes: of the WebP file; only one of 8 pixels may still be larger.
    """
    # About one bit a pixel is what such a picture needs: no time is lost on sizes that cannot fit.
    side = min(MOST_SIDE, max(image.size), max(_SMALLEST_SIDE, math.isqrt(8 * most_bytes)))
    rgb = image.convert("RGB")
    while True:
        small = reduced(rgb, side)
        for quality in _QUALITIES:
            out = io.BytesIO()
            small.save(out, "WEBP", quality=quality)
            if out.tell() <= most_bytes or (side <= _SMALLEST_SIDE and quality == _QUALITIES[-1]):
                return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
        side = max(_SMALLEST_SIDE, side * 2 // 3)


def reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with no side above `side` pixels; never enlarged."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(each * scale)) for each in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
