"""A picture leaves with how it was made, twice, and with nothing of the photograph's own metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pictures as p
import pytest
from PIL import Image, ImageCms

from imagic_cli import image, png
from imagic_cli import photo as photos
from imagic_cli.errors import ArtifactError, DiskError, UsageError

PICTURE = Image.fromarray(p.colours())
RECORD: dict[str, object] = {
    "seed": 3,
    "eta": 0.7,
    "prompt": 'Ein "Vogel", \\ 鳥 🐦\n\x07',
    "nested": {"b": [1, None], "a": True},
}


def test_the_picture_and_both_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "eta-0.700_seed-0003.png"
    png.save(path, PICTURE, "a bird\nSteps: 50", RECORD)
    np.testing.assert_array_equal(photos.read(path).pixels, p.colours())
    assert png.read_record(path) == RECORD
    sidecar = tmp_path / "eta-0.700_seed-0003.json"
    assert json.loads(sidecar.read_text()) == {**RECORD, "pixels": image.pixels_digest(PICTURE)}
    assert sorted(each.name for each in tmp_path.iterdir()) == [sidecar.name, path.name]


def test_the_chunks_are_these_and_no_others(tmp_path: Path) -> None:
    png.save(tmp_path / "a.png", PICTURE, "a bird\nSteps: 50", {"b": 1, "a": "é"})
    png.save(tmp_path / "b.png", PICTURE, "鳥\nSteps: 50", {})
    latin, wide = (p.chunks((tmp_path / name).read_bytes()) for name in ("a.png", "b.png"))
    assert [kind for kind, _ in latin] == [b"IHDR", b"tEXt", b"tEXt", b"IDAT", b"IEND"]
    assert latin[1][1] == b"parameters\0a bird\nSteps: 50"
    assert latin[2][1] == b'imagic\0{"a":"\\u00e9","b":1}'
    assert wide[1] == (b"iTXt", b"parameters\0\0\0\0\0" + "鳥\nSteps: 50".encode())


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    png.save(tmp_path / "a.png", PICTURE, "text", RECORD)
    png.save(tmp_path / "b.png", PICTURE.copy(), "text", dict(reversed(RECORD.items())))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_nothing_of_the_photograph_leaves(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B] = "SECRET-ARTIST"
    exif.get_ifd(0x8825)[29] = "SECRET-GPS"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = tmp_path / "photo"
    source.write_bytes(p.saved(PICTURE, kind, exif=exif, icc_profile=profile, dpi=(72, 72)))
    assert b"SECRET-ARTIST" in source.read_bytes()
    assert kind == "TIFF" or b"SECRET-GPS" in source.read_bytes()
    prepared, _ = image.prepare(photos.read(source), 64, 8, "crop")
    with Image.open(source) as opened:
        opened.load()
        assert opened.info["icc_profile"] == profile
        opened.info["transparency"] = (1, 2, 3)
        for number, picture in enumerate((prepared, opened)):
            path = tmp_path / f"{number}.png"
            png.save(path, picture, "text", {})
            assert b"SECRET" not in path.read_bytes()
            kinds = {kind for kind, _ in p.chunks(path.read_bytes())}
            assert kinds == {b"IHDR", b"tEXt", b"IDAT", b"IEND"}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_files_honour_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        png.save(tmp_path / "a.png", PICTURE, "text", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_picture_is_never_without_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(DiskError, match="No space left on device"):
        png.save(tmp_path / "a.png", PICTURE, "text", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="none"):
        png.save(tmp_path / "none" / "a.png", PICTURE, "text", {})


def test_the_name_of_the_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose a name ending in .png"):
        png.save(tmp_path / "a.json", PICTURE, "text", {})
    assert not list(tmp_path.iterdir())


def test_broken_arguments_do_not_break_the_picture(tmp_path: Path) -> None:
    png.save(tmp_path / "a.png", PICTURE, "a\udcffb", {"prompt": "a\udcffb"})
    assert png.read_record(tmp_path / "a.png") == {"prompt": "a\udcffb"}
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info["parameters"] == "a?b"
    with pytest.raises(ValueError, match="not JSON compliant"):
        png.save(tmp_path / "b.png", PICTURE, "text", {"psnr": float("inf")})
    assert not list(tmp_path.glob("b*"))


def test_parameters_are_what_other_tools_read() -> None:
    text = png.a1111(
        "a bird, spreading", "blurry", 50, "DDIM", 7.5, 3, 512, 384, "sd15", {"Eta": "0.700", "Note": 'a, "b": c'}
    )
    assert text == (
        "a bird, spreading\n"
        "Negative prompt: blurry\n"
        "Steps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 3, Size: 512x384, Model: sd15, Eta: 0.700, "
        'Note: "a, \\"b\\": c"'
    )
    assert png.a1111("a", "", 1, "Euler a", 7.0, 0, 8, 8, "m", {}).splitlines() == [
        "a",
        "Steps: 1, Sampler: Euler a, CFG scale: 7, Seed: 0, Size: 8x8, Model: m",
    ]


def with_record(text: bytes) -> bytes:
    return p.png(p.colours(), p.RGB, extra=((b"tEXt", b"imagic\0" + text),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (p.png(p.colours(), p.RGB), "carries no record of imagic"),
        (with_record(b"{broken"), "is damaged: its record cannot be read"),
        (with_record(b"[" * 100_000), "is damaged: its record cannot be read"),
        (with_record(b"[1, 2]"), "is damaged: its record is not a JSON object"),
        (with_record(b"{}").replace(b"{}", b"{1"), "is damaged: its record cannot be read"),
        (with_record(b"{}")[:30], "is damaged: its record cannot be read"),
        (b"", "is damaged: its record cannot be read"),
        (p.saved(PICTURE, "JPEG"), "is damaged: its record cannot be read"),
    ],
)
def test_a_damaged_record_is_told_with_its_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a\nb.png"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        png.read_record(path)
    assert str(caught.value).startswith(f"'{tmp_path}/a\\nb.png' {message}")
    assert caught.value.code == 4


def test_a_missing_picture_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ArtifactError, match="there is no such picture"):
            png.read_record(path)
