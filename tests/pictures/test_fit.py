"""Sizes and offsets of fitted pictures, whose pixels come from TNN's resize, crop and border."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.crop import copy_make_border, crop
from tnn_serving.pictures.fit import Fit, PictureSize
from tnn_serving.pictures.resize import Rectangle, resize

RNG = np.random.default_rng(11)
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_without_settings_a_picture_stays_as_it_is() -> None:
    picture = noise(5, 7, 3)
    assert np.shares_memory(Fit().apply(picture, 3), picture)
    assert Fit().placement(5, 7).is_identity(5, 7)
    assert not Fit((5, 8)).placement(5, 7).is_identity(5, 7)


LETTERBOXED = {
    "wide": ((480, 640), (224, 224), (168, 224), 28, 0),
    "tall": ((640, 480), (224, 224), (224, 168), 0, 28),
    "odd border": ((100, 201), (64, 64), (32, 64), 16, 0),
    "the odd row goes below": ((10, 20), (21, 20), (10, 20), 5, 0),
    "halves up": ((3, 8), (4, 4), (2, 4), 1, 0),
    "never nothing": ((1, 1000), (32, 32), (1, 32), 15, 0),
    "same shape": ((30, 40), (60, 80), (60, 80), 0, 0),
    "enlarged": ((2, 4), (64, 64), (32, 64), 16, 0),
}
"""Picture, size, inner size, top and left."""


@pytest.mark.parametrize("case", LETTERBOXED)
def test_letterbox_sizes(case: str) -> None:
    picture, size, inner, top, left = LETTERBOXED[case]
    place = Fit(size, "letterbox").placement(*picture)
    assert (place.scaled, place.size, place.top, place.left) == (inner, size, top, left)


@given(picture=sizes, size=sizes)
def test_letterbox_follows_the_documented_formula(picture: PictureSize, size: PictureSize) -> None:
    (h, w), (height, width) = picture, size
    place = Fit(size, "letterbox").placement(h, w)
    k = min(height / h, width / w)
    assert abs(place.scaled[0] - max(1, k * h)) <= 0.5 + 1e-9
    assert abs(place.scaled[1] - max(1, k * w)) <= 0.5 + 1e-9
    assert height in place.scaled[:1] or width in place.scaled[1:]
    assert place.top == math.floor((height - place.scaled[0]) / 2)
    assert place.left == math.floor((width - place.scaled[1]) / 2)


@given(picture=sizes, size=sizes)
def test_letterbox_is_resize_and_border(picture: PictureSize, size: PictureSize) -> None:
    pixels = noise(*picture, 3)
    place = Fit(size, "letterbox").placement(*picture)
    rows, columns = place.scaled
    wanted = copy_make_border(
        resize(pixels, rows, columns),
        top=place.top,
        bottom=size[0] - rows - place.top,
        left=place.left,
        right=size[1] - columns - place.left,
        border_val=114,
    )
    np.testing.assert_array_equal(Fit(size, "letterbox", border=(114,)).apply(pixels, 3), wanted)


@given(picture=sizes, size=sizes)
def test_cover_is_resize_and_crop(picture: PictureSize, size: PictureSize) -> None:
    (h, w), (height, width) = picture, size
    k = max(height / h, width / w)
    place = Fit(size, "cover").placement(h, w)
    assert abs(place.scaled[0] - k * h) <= 0.5 + 1e-9
    assert abs(place.scaled[1] - k * w) <= 0.5 + 1e-9
    pixels = noise(h, w, 3)
    scaled = resize(pixels, *place.scaled)
    top, left = (place.scaled[0] - height) // 2, (place.scaled[1] - width) // 2
    wanted = crop(scaled, top_left_x=left, top_left_y=top, width=width, height=height)
    np.testing.assert_array_equal(Fit(size, "cover").apply(pixels, 3), wanted)


def test_crop_after_resize_as_for_imagenet() -> None:
    pixels = noise(300, 400, 3)
    scaled = resize(pixels, 256, 341)
    wanted = crop(scaled, top_left_x=42 + 16, top_left_y=16, width=224, height=224)
    np.testing.assert_array_equal(Fit((256, 256), "cover", crop=(224, 224)).apply(pixels, 3), wanted)


def test_crop_alone() -> None:
    pixels = noise(9, 12, 1)
    np.testing.assert_array_equal(Fit(crop=(4, 5)).apply(pixels, 1), pixels[2:6, 3:8])
    with pytest.raises(RequestError, match="smaller than the crop: expected at least 5 x 10, found 12 x 9"):
        Fit(crop=(10, 5)).apply(pixels, 1)


def test_nearest() -> None:
    pixels = noise(9, 12, 3)
    np.testing.assert_array_equal(
        Fit((5, 7), interpolation="nearest").apply(pixels, 3), resize(pixels, 5, 7, "nearest")
    )


def test_a_border_of_several_values() -> None:
    boxed = Fit((4, 4), "letterbox", border=(1, 2, 3)).apply(noise(2, 4, 3), 3)
    assert (boxed[[0, 3]] == (1, 2, 3)).all()
    with pytest.raises(RequestError, match="border value"):
        Fit((4, 4), "letterbox", border=(1, 2)).apply(noise(2, 4, 3), 3)


@pytest.mark.parametrize("mode", ["letterbox", "cover"])
@pytest.mark.parametrize("size", [(1, 4_000_000), (4_000_000, 1)])
def test_extreme_pictures_cost_no_more_than_their_result(mode: str, size: PictureSize) -> None:
    """Scaled as a whole, this picture would have 2,700 million pixels."""
    assert Fit((64, 64), mode).apply(np.full((*size, 3), 9, np.uint8), 3).shape == (64, 64, 3)


def test_colours_become_grey_after_resizing() -> None:
    mat = noise(20, 30, 4)
    wanted = cvt_color(resize(mat, 8, 9)[None], "RGBATOGRAY")[0]
    np.testing.assert_array_equal(Fit((8, 9)).apply(mat, 1), wanted)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_becomes_equal_channels(channels: int) -> None:
    grey = noise(20, 30, 1)
    got = Fit((8, 9)).apply(grey, channels)
    assert got.shape == (8, 9, channels)
    assert (got[..., :3] == resize(grey, 8, 9)).all()
    assert (got[..., 3:] == 255).all()


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        Fit((8, 9), "letterbox").apply(np.zeros((0, 5, 3), np.uint8), 3)


@pytest.mark.parametrize("interp", ["linear", "nearest"])
@given(picture=sizes, size=sizes, data=st.data())
def test_a_window_is_a_part_of_the_resized_picture(
    interp: str, picture: PictureSize, size: PictureSize, data: st.DataObject
) -> None:
    top, left = (data.draw(st.integers(0, side - 1)) for side in size)
    height, width = size[0] - top, size[1] - left
    pixels = noise(*picture, data.draw(st.integers(1, 4)))
    whole = resize(pixels, *size, interp)
    part = resize(pixels, *size, interp, window=Rectangle(top, left, height, width))
    np.testing.assert_array_equal(part, whole[top:, left:])


@pytest.mark.parametrize(
    "window", [Rectangle(-1, 0, 2, 2), Rectangle(0, 3, 2, 2), Rectangle(3, 0, 2, 2), Rectangle(0, 0, 0, 2)]
)
def test_a_window_outside_is_refused(window: Rectangle) -> None:
    with pytest.raises(RequestError, match="window extends beyond"):
        resize(noise(9, 9, 3), 4, 4, window=window)
