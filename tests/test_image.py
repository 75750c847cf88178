"""Pictures: sizes, tensors, digests, PSNR."""

from __future__ import annotations

import io
import math

import numpy as np
import pictures as p
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagic_cli import image
from imagic_cli import photo as photos
from imagic_cli.errors import InputError, NumberError, UsageError

COLOURS = p.colours()


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


@pytest.mark.parametrize(("shape", "side"), [((300, 200), "height"), ((200, 300), "width")])
def test_what_keep_cuts_off_is_said(shape: tuple[int, int], side: str) -> None:
    picture, notes = image.prepare(photo_of(*shape), 128, 32, "keep")
    assert sorted(picture.size) == [96, 160]
    assert notes == (f"10% of its {side} is cut; --fit pad keeps all of it",)


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
        flat = photos.Photo(np.full((20, 20, 3), 77, np.uint8))
        picture, notes = image.prepare(flat, 64, 8, fit)  # type: ignore[arg-type]
        assert notes == ("enlarged from 20x20",)
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
