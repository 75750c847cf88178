"""Pictures built byte by byte, so that what a reader must return is known before anything was read."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def colours(height: int = 9, width: int = 13) -> np.ndarray:
    """(H, W, 3) uint8 without any symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(7 * x + 3 * y) % 256, (11 * y + 5) % 256, (x * x + 40 * y) % 256], axis=-1).astype(np.uint8)


def blocks() -> np.ndarray:
    """(32, 48, 3) uint8 of grey 16 x 16 squares, which JPEG at quality 100 keeps exactly."""
    levels = np.array([[0, 60, 255], [200, 128, 17]], np.uint8)
    return np.repeat(np.kron(levels, np.ones((16, 16), np.uint8))[..., None], 3, axis=-1)


def saved(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """A file of one of Pillow's formats."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG in their order."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(
    samples: np.ndarray,
    colour: int,
    depth: int = 8,
    interlaced: bool = False,
    extra: tuple[tuple[bytes, bytes], ...] = (),
    size: tuple[int, int] | None = None,
) -> bytes:
    """A PNG of (H, W, C) samples as they stand in the file; `size` lets the header lie."""
    height, width = samples.shape[:2]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        if part.size:
            rows += b"".join(b"\0" + _packed(row, depth) for row in part)
    wide, high = size or (width, height)
    header = struct.pack(">IIBBBBB", wide, high, depth, colour, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + b"".join(chunk(*each) for each in extra)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _packed(row: np.ndarray, depth: int) -> bytes:
    if depth >= 8:
        return row.astype(">u2" if depth == 16 else np.uint8).tobytes()
    bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def exif(orientation: int, secret: bytes = b"") -> bytes:
    """EXIF with an orientation and, behind it, an artist's name."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    if secret:
        entries += struct.pack("<HHII", 0x013B, 2, len(secret) + 1, 8 + 2 + 24 + 4)
    count = len(entries) // 12
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + b"\0\0\0\0" + secret + b"\0"


# EXIF 2.32, table of tag 0x0112: the sides on which the 0th row and the 0th column are to be seen.
_SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The rows and columns in which a camera keeps a picture that is to be seen as `upright`."""
    row_side, column_side = _SIDES[orientation]
    height, width = upright.shape[:2]
    turned = row_side in ("left", "right")
    kept = np.empty((width, height, 3) if turned else (height, width, 3), np.uint8)
    for row in range(kept.shape[0]):
        for column in range(kept.shape[1]):
            across, along = (row, column) if turned else (column, row)
            across_side, along_side = (row_side, column_side) if turned else (column_side, row_side)
            x = across if across_side == "left" else width - 1 - across
            y = along if along_side == "top" else height - 1 - along
            kept[row, column] = upright[y, x]
    return kept


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def linear_profile(grey: bool = False) -> bytes:
    """An ICC profile of linear light, with sRGB's primaries adapted to D50."""
    curve = b"curv" + bytes(8)
    text = b"text" + bytes(4) + b"none\0"
    described = b"desc" + bytes(4) + struct.pack(">I", 7) + b"linear\0" + bytes(78)
    tags = {b"desc": described, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        primaries = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
        for letter, primary in zip(b"rgb", primaries, strict=True):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*primary)
            tags[bytes([letter]) + b"TRC"] = curve
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    space = b"GRAY" if grey else b"RGB "
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def encoded(linear: np.ndarray) -> np.ndarray:
    """What sRGB's formula makes of 8-bit linear light."""
    light = linear / 255
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(int)


def over_white(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) and (H, W) uint8 laid over white, rounded to the nearest level."""
    opaque = alpha[..., None] / 255
    return np.rint(picture * opaque + 255 * (1 - opaque)).astype(np.uint8)


def deep(samples: np.ndarray) -> np.ndarray:
    """16-bit samples as 8 bits: v * 255 / 65535, rounded."""
    return np.rint(samples.astype(np.float64) * 255 / 65535).astype(np.uint8)


def contains(sheet: Image.Image, picture: Image.Image) -> tuple[int, int]:
    """Row and column of pixels at which `sheet` first shows `picture`."""
    whole, part = (np.asarray(each.convert("RGB")) for each in (sheet, picture))
    height, width = part.shape[:2]
    for y in range(whole.shape[0] - height + 1):
        for x in range(whole.shape[1] - width + 1):
            if np.array_equal(whole[y, x], part[0, 0]) and np.array_equal(whole[y : y + height, x : x + width], part):
                return y, x
    raise AssertionError("the sheet does not show the picture")
