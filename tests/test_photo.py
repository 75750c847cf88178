"""Any file that a user may have becomes upright sRGB, or one line."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pictures as p
import pytest
from golden import COLOURS, GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from imagic_cli import photo as photos
from imagic_cli.errors import InputError


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
        read_bytes(tmp_path_factory.getbasetemp(), bytes(content), "damaged-photo")
    except InputError as error:
        assert len(str(error).splitlines()) == 1
