"""Every kind of photograph becomes upright 8-bit sRGB, or one line with code 3; and that becomes what a model takes."""

from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures as p
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, features

from imagic_cli import image
from imagic_cli import photo as photos
from imagic_cli.errors import InputError, NumberError, UsageError

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


@pytest.mark.parametrize("name", GOLDEN)
def test_a_photograph_becomes_upright_srgb(name: str, tmp_path: Path) -> None:
    build, pixels, notes = GOLDEN[name]
    path = tmp_path / "photo"
    path.write_bytes(build())
    photo = photos.read(path)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.notes == notes


def test_pillows_limit_is_as_it_was(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    read_bytes(tmp_path, p.png(COLOURS, p.RGB))
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_bytes(tmp_path, p.png(COLOURS, p.RGB), "photo.jpg").pixels, COLOURS)


def test_all_levels_of_16_bits_are_rounded(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    for samples, colour in ((levels, p.GREY), (np.repeat(levels, 3, axis=-1), p.RGB)):
        pixels = read_bytes(tmp_path, p.png(samples, colour, 16)).pixels
        np.testing.assert_array_equal(pixels, np.broadcast_to(p.deep(levels), (256, 256, 3)))


@pytest.mark.parametrize("grey", [False, True])
def test_all_levels_of_a_profile_are_converted(grey: bool, tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = p.saved(levels if grey else np.dstack([levels] * 3), "PNG", icc_profile=p.linear_profile(grey))
    pixels = read_bytes(tmp_path, content).pixels.astype(int)
    # One level for the profile's rounded primaries.
    assert np.abs(pixels - p.encoded(levels)[..., None]).max() <= 1


def test_a_hundred_million_pixels_are_read(tmp_path: Path) -> None:
    content = p.saved(Image.new("1", (10_000, 10_000), 1), "PNG")
    photo = read_bytes(tmp_path, content)
    assert photo.pixels.shape == (10_000, 10_000, 3)
    assert photo.pixels[::999, ::999].min() == 255


def read_bytes(folder: Path, content: bytes, name: str = "photo") -> photos.Photo:
    path = folder / name
    path.write_bytes(content)
    return photos.read(path)


CUT = "is truncated or damaged; copy or export it again"
PHOTO = Image.effect_noise((40, 30), 60).convert("RGB")
WHOLE = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "WEBP": {},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    **({"AVIF": {}} if features.check("avif") else {}),
}


@pytest.mark.parametrize("percent", [10, 50, 99])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_file_is_refused(kind: str, percent: int, tmp_path: Path) -> None:
    content = p.saved(PHOTO, kind)
    with pytest.raises(InputError) as caught:
        read_bytes(tmp_path, content[: len(content) * percent // 100])
    assert str(caught.value) == f"{tmp_path / 'photo'} {CUT}"
    assert caught.value.code == 3


@pytest.mark.parametrize("kind", WHOLE)
def test_no_cut_gives_other_pixels(kind: str, tmp_path: Path) -> None:
    content = p.saved(PHOTO.resize((12, 10)), kind)
    pixels = read_bytes(tmp_path, content).pixels
    for length in range(0, len(content), 1 + len(content) // 100):
        try:
            cut = read_bytes(tmp_path, content[:length])
        except InputError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(cut.pixels, pixels)


FORBIDDEN = {
    "empty": (b"", "is an empty file"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page or XML, not an image"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "text": (b"hello, this is no picture", "is not an image; PNG, JPEG,"),
    "zeros": (bytes(5000), "is not an image"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC photograph, which is not read"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    "damaged": (p.png(COLOURS, p.RGB).replace(b"IDAT", b"IDAX"), CUT),
    "flipped": (p.png(COLOURS, p.RGB)[:60] + b"\xff" + p.png(COLOURS, p.RGB)[61:], CUT),
    "32 bits": (p.saved(Image.new("I", (4, 4), 70_000), "TIFF"), "has samples of 32 bits"),
    "float": (p.saved(Image.new("F", (4, 4), 0.5), "TIFF"), "has floating point samples"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_no_photograph_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = FORBIDDEN[name]
    with pytest.raises(InputError) as caught:
        read_bytes(tmp_path, content, "photo.jpg")
    assert str(caught.value).startswith(f"{tmp_path / 'photo.jpg'} {message}")
    assert caught.value.code == 3
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_regular_file_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "turn").symlink_to(tmp_path / "turn")
    for name, message in {
        str(tmp_path / "pipe"): "is a pipe, not a photograph",
        str(tmp_path): "is a folder, not a photograph",
        "/dev/zero": "is a device, not a photograph",
        str(tmp_path / "none.png"): "there is no such file",
        str(tmp_path / "link"): "there is no such file",
        str(tmp_path / "turn"): "cannot be read",
        str(tmp_path / ("x" * 300)): "cannot be read: File name too long",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            photos.read(Path(name))
        assert str(caught.value).startswith(name)


def test_a_name_is_printed_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m\udcff.png"
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        photos.read(path)
    assert "a\\nb\\x1b[31m\\udcff.png' is an empty file" in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(InputError, match=r"a\\x00b' cannot be read"):
        photos.read(Path("a\0b"))


def webp_of(width: int, height: int) -> bytes:
    content = bytearray(p.saved(COLOURS, "WEBP", lossless=True))
    assert content[12:16] == b"VP8L"
    content[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(content)


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(p.saved(COLOURS, "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS = {
    "png": p.png(COLOURS, p.RGB, size=(60_000, 60_000)),
    "png just beyond": p.png(COLOURS, p.RGB, size=(120_001, 1000)),
    "jpeg": jpeg_of(65_000, 65_000),
    "webp": webp_of(16_383, 16_383),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + p.saved(COLOURS, "GIF")[10:],
    "bmp": p.saved(COLOURS, "BMP")[:18] + struct.pack("<ii", 50_000, 50_000) + p.saved(COLOURS, "BMP")[26:],
    "ppm": b"P6 50000 50000 255\n" + bytes(300),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError) as caught:
        read_bytes(tmp_path, BOMBS[name])
    assert str(caught.value) == f"{tmp_path / 'photo'} claims more than 120 million pixels; make it smaller first"


def test_120_million_pixels_are_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated or damaged"):
        read_bytes(tmp_path, p.png(COLOURS[..., :1] // 200, p.GREY, 1, size=(120_000, 1000)))


_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from imagic_cli import photo as photos
from imagic_cli.errors import InputError
assert "torch" not in sys.modules
photos.read(Path(sys.argv[1]))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 100_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[2:]:
    try:
        photos.read(Path(name))
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the address space is measured as Linux tells it")
def test_a_bomb_takes_less_than_100_megabytes(tmp_path: Path) -> None:
    names = []
    for number, content in enumerate([p.png(COLOURS, p.RGB), *BOMBS.values()]):
        names.append(str(tmp_path / str(number)))
        Path(names[-1]).write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", _UNDER_A_LIMIT, *names]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.count("claims more than 120 million pixels") == len(BOMBS)
    assert result.stderr == ""


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damage_gives_a_photograph_or_one_line(
    kind: str, changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(p.saved(COLOURS, kind))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        read_bytes(tmp_path_factory.getbasetemp(), bytes(content), "damaged")
    except InputError as error:
        assert len(str(error).splitlines()) == 1


def photo_of(width: int, height: int) -> photos.Photo:
    return photos.Photo(p.colours(height, width))


@pytest.mark.parametrize("fit", ["keep", "crop", "pad"])
def test_a_square_of_the_size_stays_as_it_is(fit: str) -> None:
    photo = photo_of(64, 64)
    picture, notes = image.prepare(photo, 64, 8, fit)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(picture), photo.pixels)
    assert picture.mode == "RGB"
    assert notes == ()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    count=st.integers(1, 12),
    multiple=st.sampled_from([1, 8, 16]),
    center=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_shape_fits(width: int, height: int, count: int, multiple: int, center: tuple[float, float]) -> None:
    photo, size = photo_of(width, height), count * multiple
    for fit in ("crop", "pad"):
        picture, notes = image.prepare(photo, size, multiple, fit, center)  # type: ignore[arg-type]
        assert picture.size == (size, size)
        assert bool(notes) == (size > (min if fit == "crop" else max)(width, height))
    if max(width, height) > 2 * min(width, height):
        with pytest.raises(InputError, match="--fit crop or --fit pad"):
            image.prepare(photo, size, multiple, "keep", center)
        return
    picture, notes = image.prepare(photo, size, multiple, "keep", center)
    for side, exact in zip(picture.size, (math.sqrt(width / height), math.sqrt(height / width)), strict=True):
        assert side % multiple == 0
        assert side >= multiple
        assert side == multiple or abs(side - size * exact) <= multiple / 2 + 1e-6


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [(768, 512, (624, 416)), (512, 768, (416, 624)), (1024, 512, (728, 360)), (1000, 999, (512, 512))],
)
def test_keep_keeps_the_aspect_ratio_and_the_area(width: int, height: int, wanted: tuple[int, int]) -> None:
    picture, notes = image.prepare(photo_of(width, height), 512, 8, "keep")
    assert picture.size == wanted
    assert notes == ()


@pytest.mark.parametrize(("center", "left"), [((0.0, 0.5), 0), ((0.5, 0.5), 20), ((0.6, 0.0), 30), ((1.0, 1.0), 40)])
def test_crop_goes_around_the_center(center: tuple[float, float], left: int) -> None:
    photo = photo_of(104, 64)
    for turned in (False, True):
        pixels = photo.pixels.swapaxes(0, 1) if turned else photo.pixels
        asked = center[::-1] if turned else center
        picture, _ = image.prepare(photos.Photo(np.ascontiguousarray(pixels)), 64, 8, "crop", asked)
        wanted = photo.pixels[:, left : left + 64]
        np.testing.assert_array_equal(np.asarray(picture), wanted.swapaxes(0, 1) if turned else wanted)


def test_pad_repeats_the_border() -> None:
    photo = photo_of(64, 30)
    picture, notes = image.prepare(photo, 64, 8, "pad")
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[17:47], photo.pixels)
    np.testing.assert_array_equal(pixels[:17], np.broadcast_to(photo.pixels[:1], (17, 64, 3)))
    np.testing.assert_array_equal(pixels[47:], np.broadcast_to(photo.pixels[-1:], (17, 64, 3)))
    assert notes == ()


def test_a_small_picture_is_enlarged_and_said_to_be() -> None:
    for fit in ("keep", "crop", "pad"):
        flat = photos.Photo(np.full((20, 30, 3), 77, np.uint8))
        picture, notes = image.prepare(flat, 64, 8, fit)  # type: ignore[arg-type]
        assert notes == ("enlarged from 30x20",)
        assert picture.getextrema() == ((77, 77),) * 3


def test_an_extreme_shape_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError) as caught:
        image.prepare(photo_of(201, 100), 64, 8, "keep")
    assert str(caught.value) == "the picture is 201x100, longer than 2:1; choose --fit crop or --fit pad"
    assert image.prepare(photo_of(200, 100), 64, 8, "keep")[0].size == (88, 48)


@pytest.mark.parametrize(
    ("size", "hint"), [(510, "try 504 or 512"), (5, "try 8"), (0, "try 8"), (-8, "try 8"), (9, "try 8 or 16")]
)
def test_a_size_the_model_does_not_take_is_refused(size: int, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        image.prepare(photo_of(64, 64), size, 8, "crop")
    assert str(caught.value) == f"--size {size} is not a multiple of 8; {hint}"


@pytest.mark.parametrize("center", [(-0.1, 0.5), (0.5, 1.5), (math.nan, 0.5)])
def test_a_center_outside_the_picture_is_refused(center: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="give two fractions from 0 to 1"):
        image.prepare(photo_of(64, 64), 64, 8, "crop", center)


def test_the_digest_is_of_the_pixels_and_the_shape() -> None:
    picture = Image.fromarray(COLOURS)
    digest = image.pixels_digest(picture)
    for kind in ("PNG", "BMP", "TIFF"):
        assert image.pixels_digest(Image.open(io.BytesIO(p.saved(picture, kind)))) == digest
    assert image.pixels_digest(picture.convert("RGBA")) == digest
    assert image.pixels_digest(picture.transpose(Image.Transpose.ROTATE_90)) != digest
    white = [Image.new("RGB", size, "white") for size in ((2, 3), (3, 2), (1, 6))]
    assert len({image.pixels_digest(each) for each in white}) == 3


def test_tensors_and_pictures_go_both_ways() -> None:
    levels = np.arange(256, dtype=np.uint8)
    picture = Image.fromarray(np.stack([levels, levels[::-1], levels ^ 85], axis=-1).reshape(8, 32, 3))
    tensor = image.to_tensor(picture)
    assert tensor.shape == (1, 3, 8, 32)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    np.testing.assert_allclose(tensor[0, :, 1, 2], np.asarray(picture)[1, 2] / 127.5 - 1, atol=1e-7)
    for kind in (torch.float32, torch.float64):
        several = image.to_images(torch.cat([tensor, -tensor]).to(kind))
        np.testing.assert_array_equal(np.asarray(several[0]), np.asarray(picture))
        np.testing.assert_array_equal(np.asarray(several[1]), 255 - np.asarray(picture))


def test_samples_are_rounded_and_clamped() -> None:
    wanted = {-3.0: 0, -1.0: 0, -0.997: 0, -0.995: 1, 0.005: 128, 1.0: 255, 9.0: 255}
    samples = torch.tensor(list(wanted), requires_grad=True).reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    (picture,) = image.to_images(samples)
    assert np.asarray(picture)[0, :, 0].tolist() == list(wanted.values())
    exact = torch.tensor([-1, -0.5, 0.25, 1]).expand(1, 3, 1, -1)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        (picture,) = image.to_images(exact.to(kind))
        assert np.asarray(picture)[0, :, 0].tolist() == [0, 64, 159, 255]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_picture_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(NumberError, match="--dtype fp32"):
        image.to_images(torch.full((1, 3, 2, 2), value))


def test_psnr_is_the_formula() -> None:
    picture = Image.fromarray(COLOURS)
    off = COLOURS.astype(int)
    off[2, 3, 1] += 10
    other = Image.fromarray(off.astype(np.uint8))
    assert image.psnr(picture, picture) == math.inf
    assert image.psnr(picture, other) == pytest.approx(20 * math.log10(255) - 10 * math.log10(100 / COLOURS.size))
    assert image.psnr(Image.new("RGB", (3, 3)), Image.new("RGB", (3, 3), "white")) == 0
    with pytest.raises(ValueError, match="cannot be compared"):
        image.psnr(picture, Image.new("RGB", (3, 3)))
