"""Golden photographs: how each file is built, and the pixels and notes that must come out of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pictures as p
from PIL import Image, ImageCms

COLOURS = p.colours()
GREY = COLOURS[..., :1]
GREYS = np.repeat(GREY, 3, axis=-1)
DEEP = COLOURS.astype(np.uint16) * 251 + np.arange(13, dtype=np.uint16)[:, None] * 17
DEEP[0, 0], DEEP[0, 1] = (0x01FF, 0xFE00, 0x8080), (65535, 0, 128)
ALPHA = np.linspace(0, 255, 117).astype(np.uint8).reshape(9, 13)
BITS = (GREY > 100).astype(np.uint8)
RAMP = np.array([[10, 20, 30], [250, 0, 9], [0, 128, 255], [77, 77, 77]], np.uint8)
INDEX = (np.add.outer(np.arange(9), np.arange(13)) % 4).astype(np.uint8)[..., None]
INKS = np.stack([COLOURS[..., 0], COLOURS[..., 1], COLOURS[..., 2], COLOURS[..., 1] // 2], axis=-1)
PAPER = np.rint((255 - INKS[..., :3]) * (255.0 - INKS[..., 3:]) / 255).astype(np.uint8)
FLAT_INKS = np.full((32, 32, 4), (40, 90, 200, 30), np.uint8)
OVER = "transparent: laid over white"
ANIMATED = "animated: the first frame is used"
SEVERAL = "several pictures in one file: the first is used"
BROKEN_ICC = "its ICC profile is broken or for another kind of picture and was ignored"


def tone(key: int, picture: np.ndarray = GREYS) -> np.ndarray:
    """GREYS with one level transparent, over white."""
    return np.where((picture == key).all(axis=-1, keepdims=True), 255, picture).astype(np.uint8)


def keyed() -> np.ndarray:
    wanted = p.deep(DEEP)
    wanted[0, 0] = 255
    return wanted


def frames(kind: str, **options: object) -> bytes:
    return p.saved(COLOURS, kind, save_all=True, append_images=[Image.fromarray(255 - COLOURS)], **options)


def first_of_gif() -> bytes:
    few = [Image.fromarray(RAMP[(INDEX[..., 0] + shift) % 4]).quantize(8) for shift in (0, 1)]
    return p.saved(few[0], "GIF", save_all=True, append_images=few[1:])


def transparent_gif() -> bytes:
    picture = Image.fromarray(INDEX[..., 0])
    picture.putpalette(RAMP.tobytes())
    return p.saved(picture, "GIF", transparency=2)


def see_through() -> np.ndarray:
    return np.where(INDEX == 2, 255, RAMP[INDEX[..., 0]]).astype(np.uint8)


def sheer() -> Image.Image:
    return Image.fromarray(np.concatenate([COLOURS, ALPHA[..., None]], axis=-1))


def inks(samples: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", samples.shape[1::-1], samples.tobytes())


def numbers(kind: str, mode: str) -> bytes:
    return p.saved(Image.frombytes(mode, (13, 9), DEEP[..., 0].astype(kind).tobytes()), "TIFF")


DEEP_GREYS = np.repeat(p.deep(DEEP[..., :1]), 3, axis=-1)
DEEP_ALPHA = np.concatenate([DEEP[..., :1], DEEP[..., 1:2]], axis=-1)
DEEP_SHEER = np.concatenate([DEEP, DEEP[..., 1:2]], axis=-1)
PLTE = (b"PLTE", RAMP.tobytes())
NIBBLES = GREY // 16
LONG = np.arange(20000, dtype=np.uint16).astype(np.uint8).reshape(20000, 1, 1)

GOLDEN: dict[str, tuple[Callable[[], bytes], np.ndarray, tuple[str, ...]]] = {
    "png": (lambda: p.png(COLOURS, p.RGB), COLOURS, ()),
    "png interlaced": (lambda: p.png(COLOURS, p.RGB, interlaced=True), COLOURS, ()),
    "png grey": (lambda: p.png(GREY, p.GREY), GREYS, ()),
    "png grey 4 bits": (lambda: p.png(NIBBLES, p.GREY, 4), np.repeat(NIBBLES * 17, 3, axis=-1), ()),
    "png 1 bit": (lambda: p.png(BITS, p.GREY, 1), np.repeat(BITS * 255, 3, axis=-1), ()),
    "png grey 16": (lambda: p.png(DEEP[..., :1], p.GREY, 16), DEEP_GREYS, ()),
    "png rgb 16": (lambda: p.png(DEEP, p.RGB, 16), p.deep(DEEP), ()),
    "png rgb 16 interlaced": (lambda: p.png(DEEP, p.RGB, 16, interlaced=True), p.deep(DEEP), ()),
    "png rgba 16": (
        lambda: p.png(DEEP_SHEER, p.RGB_ALPHA, 16),
        p.over_white(p.deep(DEEP), p.deep(DEEP[..., 1])),
        (OVER,),
    ),
    "png la 16": (
        lambda: p.png(DEEP_ALPHA, p.GREY_ALPHA, 16),
        p.over_white(DEEP_GREYS, p.deep(DEEP[..., 1])),
        (OVER,),
    ),
    "png rgb 16 one colour transparent": (
        lambda: p.png(DEEP, p.RGB, 16, extra=((b"tRNS", DEEP[0, 0].astype(">u2").tobytes()),)),
        keyed(),
        (OVER,),
    ),
    "png grey 16 one level transparent": (
        lambda: p.png(DEEP[..., :1], p.GREY, 16, extra=((b"tRNS", DEEP[0, 1, :1].astype(">u2").tobytes()),)),
        np.where(DEEP[..., :1] == DEEP[0, 1, 0], 255, DEEP_GREYS).astype(np.uint8),
        (OVER,),
    ),
    "png palette": (lambda: p.png(INDEX, p.PALETTE, extra=(PLTE,)), RAMP[INDEX[..., 0]], ()),
    "png palette 2 bits": (lambda: p.png(INDEX, p.PALETTE, 2, extra=(PLTE,)), RAMP[INDEX[..., 0]], ()),
    "png palette transparent": (
        lambda: p.png(INDEX, p.PALETTE, extra=(PLTE, (b"tRNS", b"\xff\xff\x00"))),
        see_through(),
        (OVER,),
    ),
    "png palette half transparent": (
        lambda: p.png(INDEX, p.PALETTE, extra=(PLTE, (b"tRNS", bytes([0, 50, 128, 255])))),
        p.over_white(RAMP[INDEX[..., 0]], np.array([0, 50, 128, 255], np.uint8)[INDEX[..., 0]]),
        (OVER,),
    ),
    "png la": (
        lambda: p.png(np.concatenate([GREY, ALPHA[..., None]], axis=-1), p.GREY_ALPHA),
        p.over_white(GREYS, ALPHA),
        (OVER,),
    ),
    "png rgba": (lambda: p.saved(sheer(), "PNG"), p.over_white(COLOURS, ALPHA), (OVER,)),
    "png rgba opaque": (lambda: p.saved(Image.fromarray(COLOURS).convert("RGBA"), "PNG"), COLOURS, ()),
    "png grey one level transparent": (
        lambda: p.png(GREY, p.GREY, extra=((b"tRNS", b"\0\x31"),)),
        tone(0x31),
        (OVER,),
    ),
    "png grey 4 bits one level transparent": (
        lambda: p.png(NIBBLES, p.GREY, 4, extra=((b"tRNS", b"\0\x03"),)),
        tone(51, np.repeat(NIBBLES * 17, 3, axis=-1)),
        (OVER,),
    ),
    "png 1 bit one level transparent": (
        lambda: p.png(BITS, p.GREY, 1, extra=((b"tRNS", b"\0\x00"),)),
        np.full_like(COLOURS, 255),
        (OVER,),
    ),
    "png rgb one colour transparent": (
        lambda: p.png(COLOURS, p.RGB, extra=((b"tRNS", COLOURS[4, 4].astype(">u2").tobytes()),)),
        np.where((COLOURS[4, 4] == COLOURS).all(axis=-1, keepdims=True), 255, COLOURS).astype(np.uint8),
        (OVER,),
    ),
    "png 1x1": (lambda: p.png(COLOURS[3:4, 5:6], p.RGB), COLOURS[3:4, 5:6], ()),
    "png 1x20000": (lambda: p.png(LONG, p.GREY), np.repeat(LONG, 3, axis=-1), ()),
    "apng": (lambda: frames("PNG"), COLOURS, (ANIMATED,)),
    "jpeg": (lambda: p.saved(p.blocks(), "JPEG", quality=100), p.blocks(), ()),
    "jpeg progressive": (lambda: p.saved(p.blocks(), "JPEG", quality=100, progressive=True), p.blocks(), ()),
    "jpeg grey": (lambda: p.saved(p.blocks()[..., 0], "JPEG", quality=100), p.blocks(), ()),
    "jpeg cmyk": (
        lambda: p.saved(inks(FLAT_INKS), "JPEG", quality=100),
        np.full((32, 32, 3), (190, 146, 49), np.uint8),
        (),
    ),
    "mpo": (
        lambda: p.saved(p.blocks(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))], quality=100),
        p.blocks(),
        (SEVERAL,),
    ),
    "gif": (transparent_gif, see_through(), (OVER,)),
    "gif animated": (first_of_gif, RAMP[INDEX[..., 0]], (ANIMATED,)),
    "webp": (lambda: p.saved(COLOURS, "WEBP", lossless=True), COLOURS, ()),
    "webp rgba": (
        lambda: p.saved(sheer(), "WEBP", lossless=True, exact=True),
        p.over_white(COLOURS, ALPHA),
        (OVER,),
    ),
    "webp animated": (lambda: frames("WEBP", lossless=True), COLOURS, (ANIMATED,)),
    "bmp": (lambda: p.saved(COLOURS, "BMP"), COLOURS, ()),
    "ppm": (lambda: b"P6 13 9 255\n" + COLOURS.tobytes(), COLOURS, ()),
    "pgm 16": (lambda: b"P5 13 9 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), DEEP_GREYS, ()),
    "tiff": (lambda: p.saved(COLOURS, "TIFF"), COLOURS, ()),
    "tiff lzw": (lambda: p.saved(COLOURS, "TIFF", compression="tiff_lzw"), COLOURS, ()),
    "tiff several": (lambda: frames("TIFF"), COLOURS, (SEVERAL,)),
    "tiff cmyk": (lambda: p.saved(inks(INKS), "TIFF"), PAPER, ()),
    "tiff 1 bit": (
        lambda: p.saved(Image.fromarray(BITS[..., 0] * 255).convert("1"), "TIFF"),
        np.repeat(BITS * 255, 3, axis=-1),
        (),
    ),
    "tiff 16 little": (lambda: numbers("<u2", "I;16"), DEEP_GREYS, ()),
    "tiff 16 big": (lambda: numbers(">u2", "I;16B"), DEEP_GREYS, ()),
    "tiff 32 that fits": (lambda: numbers("<i4", "I"), DEEP_GREYS, ()),
    "icc linear": (
        lambda: p.saved(p.blocks(), "PNG", icc_profile=p.linear_profile()),
        p.encoded(p.blocks()).astype(np.uint8),
        (),
    ),
    "icc linear grey": (
        lambda: p.saved(p.blocks()[..., 0], "PNG", icc_profile=p.linear_profile(grey=True)),
        p.encoded(p.blocks()).astype(np.uint8),
        (),
    ),
    "icc srgb": (
        lambda: p.saved(COLOURS, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        COLOURS,
        (),
    ),
    "icc broken": (lambda: p.saved(COLOURS, "PNG", icc_profile=b"not a profile"), COLOURS, (BROKEN_ICC,)),
    "icc of grey in rgb": (
        lambda: p.saved(COLOURS, "PNG", icc_profile=p.linear_profile(grey=True)),
        COLOURS,
        (BROKEN_ICC,),
    ),
    "exif 6 jpeg": (
        lambda: p.saved(p.stored(p.blocks(), 6), "JPEG", quality=100, exif=b"Exif\0\0" + p.exif(6)),
        p.blocks(),
        (),
    ),
    "exif 8 webp": (lambda: p.saved(p.stored(COLOURS, 8), "WEBP", lossless=True, exif=p.exif(8)), COLOURS, ()),
    "exif 5 tiff": (lambda: p.saved(p.stored(COLOURS, 5), "TIFF", tiffinfo={0x0112: 5}), COLOURS, ()),
    "exif 9": (lambda: p.png(COLOURS, p.RGB, extra=((b"eXIf", p.exif(9)),)), COLOURS, ()),
    "exif broken": (
        lambda: p.png(COLOURS, p.RGB, extra=((b"eXIf", b"II*\0\xff\xff"),)),
        COLOURS,
        ("its EXIF is broken and was ignored",),
    ),
}
GOLDEN |= {
    f"exif {turn}": (
        lambda turn=turn: p.png(p.stored(COLOURS, turn), p.RGB, extra=((b"eXIf", p.exif(turn)),)),  # type: ignore[misc]
        COLOURS,
        (),
    )
    for turn in range(1, 9)
}
