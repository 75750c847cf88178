"""Photographs: any file that a user may have becomes upright 8-bit sRGB."""

from __future__ import annotations

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from imagic_cli.errors import ImagicError, InputError

_MOST_PIXELS = 120_000_000
# Pillow knows more, and starts Ghostscript for some: only what photographs come in, and refuses whole when cut short.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "PPM")
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_ORIENTATION = 0x0112
_COLOURS = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}
_SPACES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Photo:
    """A photograph as it is to be seen.

    Args:
        pixels: (H, W, 3) uint8, sRGB, upright.
        notes: what had to be decided on the way, one line each.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


def quoted(path: Path) -> str:
    """The path as it can be printed on one line: control characters and broken text escaped."""
    name = str(path)
    return name if name.isprintable() else repr(name)


def read(path: Path) -> Photo:
    """Read a photograph: only a regular file, of at most 120 million pixels, and only a whole one.

    Raises:
        InputError: the file is missing, is no file, is no image, is cut short, or is too large; one line names it.
    """
    name = quoted(path)
    try:
        # Opening a pipe would wait for its writer, so its kind is asked first.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{name} is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a photograph")
        with path.open("rb") as stream:
            return _decode(stream, name)
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{name} cannot be read: {error}") from error


def _decode(stream: BinaryIO, name: str) -> Photo:
    head = stream.read(1024)
    if not head:
        raise InputError(f"{name} is an empty file")
    stream.seek(0)
    try:
        with _pillow_limits():
            Image.init()
            formats = [kind for kind in _FORMATS if kind in Image.OPEN]
            return _develop(Image.open(stream, formats=formats), stream, name)
    except (ImagicError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = f"{_MOST_PIXELS // 1_000_000} million"
        raise InputError(f"{name} claims more than {limit} pixels", "make it smaller first") from error
    except UnidentifiedImageError as error:
        raise _unidentified(head, name) from error
    except Exception as error:  # Decoders meet damage with errors of every class.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(name) from error


@contextlib.contextmanager
def _pillow_limits() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    # Pillow warns beyond this and refuses beyond twice this, before it decodes or a decoder takes memory.
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is truncated or damaged", "copy or export it again")


def _unidentified(head: bytes, name: str) -> InputError:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        if b"<svg" in text:
            return InputError(f"{name} is an SVG drawing, not a photograph", "export it as PNG")
        return InputError(f"{name} is a web page or XML, not an image", "download the picture itself")
    if head.startswith(_BEGINNINGS) or head[4:12] in (b"ftypavif", b"ftypavis"):
        return _damaged(name)
    if head[4:8] == b"ftyp" and head[8:10] in (b"he", b"mi", b"ms"):
        return InputError(f"{name} is a HEIC photograph, which is not read", "export it as JPEG or PNG")
    return InputError(f"{name} is not an image", "PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP and PPM are read")


def _develop(image: ImageFile.ImageFile, stream: BinaryIO, name: str) -> Photo:
    notes = []
    plain = _eight_bits(image, stream, name)
    if getattr(image, "is_animated", False):
        pages = image.format in ("MPO", "TIFF")
        notes.append(
            "several pictures in one file: the first is used" if pages else "animated: the first frame is used"
        )
    alpha = plain.convert("RGBA").getchannel("A") if plain.has_transparency_data else None
    colours = plain.convert(_COLOURS.get(plain.mode, "RGB"))
    colours = _standard(colours, image.info.get("icc_profile"), notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("transparent: laid over white")
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    return Photo(_upright(np.asarray(colours), image, notes), tuple(notes))


def _eight_bits(image: ImageFile.ImageFile, stream: BinaryIO, name: str) -> Image.Image:
    """Decode; samples of 16 bits v become v * 255 / 65535, rounded, where Pillow clips or cuts them."""
    raw = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
    image.load()
    key = image.info.get("transparency")
    if raw in ("RGB;16B", "RGBA;16B"):
        # Pillow keeps the high bytes only; read as little-endian, the same file gives the low ones.
        high, low = np.asarray(image), _samples(stream, raw[:-1] + "L")
    elif raw == "LA;16B":
        both = _samples(stream, "RGBA")
        high, low = both[..., 0::2], both[..., 1::2]
    elif image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image)[..., None]
        if deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"{name} has samples of 32 bits", "save it with 8 or 16 bits")
        high, low = (deep >> 8).astype(np.uint8), (deep & 255).astype(np.uint8)
    elif image.mode == "F":
        raise InputError(f"{name} has floating point samples", "save it with 8 or 16 bits")
    else:
        if raw in ("L;2", "L;4") and isinstance(key, int):
            # Pillow widens the samples and leaves the transparent one as it stands in the file.
            image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw]
        return image
    # v = 257 * high + off, so high is the rounded quotient or next to it.
    off = low.astype(np.int16) - high
    samples = (high + (off > 128) - (off < -128)).astype(np.uint8)
    if key is not None:
        keys = np.atleast_1d(np.asarray(key))
        same = ((high == keys >> 8) & (low == keys & 255)).all(axis=-1, keepdims=True)
        samples = np.concatenate([samples, np.where(same, 0, 255).astype(np.uint8)], axis=-1)
    return Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)


def _samples(stream: BinaryIO, raw: str) -> Pixels:
    stream.seek(0)
    image = Image.open(stream, formats=("PNG",))
    image.tile = [image.tile[0]._replace(args=raw)]
    return np.asarray(image)


def _standard(colours: Image.Image, embedded: bytes | None, notes: list[str]) -> Image.Image:
    """Take a picture of mode L, RGB or CMYK to RGB in the sRGB space, by its ICC profile where that is usable."""
    if embedded:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
            mode = _SPACES.get(profile.profile.xcolor_space)
            source = colours.convert("RGB") if (colours.mode, mode) == ("L", "RGB") else colours
            if source.mode == mode:
                target = ImageCms.createProfile("sRGB")
                # Unoptimised: the shortcut's coarse table is up to 10 grey levels off in the shadows, and no faster.
                exact = ImageCms.Flags.NOOPTIMIZE
                converted = ImageCms.profileToProfile(source, profile, target, outputMode="RGB", flags=exact)
                if converted is not None:
                    return converted
        except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
            pass
        notes.append("its ICC profile is broken or for another kind of picture and was ignored")
    return colours.convert("RGB")


def _upright(pixels: Pixels, image: Image.Image, notes: list[str]) -> Pixels:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parser meets damage with errors of every class.
        notes.append("its EXIF is broken and was ignored")
        orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
