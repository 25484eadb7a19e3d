"""From a request's tensor to the pixels that the graph takes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.fit import Fit
from tnn_serving.pictures.resize import resize
from tnn_serving.serving.pictures import PictureReader
from tnn_serving.serving.tensors import RequestTensor

RNG = np.random.default_rng(5)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def raw(array: np.ndarray) -> RequestTensor:
    return RequestTensor("x", "UINT8", array.shape, memoryview(array.tobytes()))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def files(*data: bytes) -> RequestTensor:
    joined = b"".join(struct.pack("<I", len(one)) + one for one in data)
    return RequestTensor("x", "BYTES", (len(data), 1), memoryview(joined))


def test_pixels_that_fit_are_taken_in_place() -> None:
    picture = noise(6, 8, 3)
    for fit in (Fit(), Fit((6, 8)), Fit((6, 8), "letterbox")):
        tensor = raw(picture)
        got = PictureReader(3, fit=fit).pixels(tensor)
        np.testing.assert_array_equal(got, picture[None])
        assert np.shares_memory(got, np.frombuffer(tensor.data, np.uint8))


def test_a_batch_of_pixels_is_resized_picture_by_picture() -> None:
    batch = noise(5, 20, 30, 3)
    got = PictureReader(3, fit=Fit((8, 9))).pixels(raw(batch))
    np.testing.assert_array_equal(got, resize(batch, 8, 9))


def test_a_batch_of_files_of_any_sizes() -> None:
    pictures = [noise(*size, 3) for size in ((20, 30), (9, 50), (31, 7), (8, 9))]
    fit = Fit((8, 9), "letterbox", border=(1, 2, 3))
    got = PictureReader(3, encoded=True, fit=fit).pixels(files(*map(png, pictures)))
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.stack([fit.apply(picture, 3) for picture in pictures]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_of_other_channels_than_the_network(channels: int) -> None:
    grey, colour, alpha = noise(9, 9, 1), noise(9, 9, 3), noise(9, 9, 4)
    got = PictureReader(channels, encoded=True).pixels(files(png(grey), png(colour), png(alpha)))
    assert got.shape == (3, 9, 9, channels)
    if channels == 1:
        np.testing.assert_array_equal(got[0], grey)
        np.testing.assert_array_equal(got[1], cvt_color(colour[None], "RGBTOGRAY")[0])
        np.testing.assert_array_equal(got[2], cvt_color(alpha[None], "RGBATOGRAY")[0])
    else:
        assert (got[0, ..., :3] == grey).all()
        np.testing.assert_array_equal(got[1, ..., :3], colour)
        np.testing.assert_array_equal(got[2], alpha[..., :channels])
        assert (got[:2, ..., 3:] == 255).all()


def test_the_limit_is_the_configurations() -> None:
    file = png(noise(20, 30, 3))
    assert PictureReader(3, encoded=True, max_pixels=600).pixels(files(file)).shape == (1, 20, 30, 3)
    with pytest.raises(RequestError, match="too large: expected at most 599 pixels, found 30 x 20"):
        PictureReader(3, encoded=True, max_pixels=599).pixels(files(file))


def test_the_bad_picture_of_several_is_named() -> None:
    good = png(noise(9, 9, 3))
    with pytest.raises(RequestError, match="picture 2 of 3: not a picture"):
        PictureReader(3, encoded=True).pixels(files(good, b"hello", good))
    with pytest.raises(RequestError, match=r"^not a picture"):
        PictureReader(3, encoded=True).pixels(files(b"hello"))


def test_pictures_that_differ_need_a_size() -> None:
    tensor = files(png(noise(9, 8, 3)), png(noise(9, 9, 3)))
    with pytest.raises(RequestError, match=r"differ in size: found 8 x 9, 9 x 9 \(set the parameter `resize`\)"):
        PictureReader(3, encoded=True).pixels(tensor)
    assert PictureReader(3, encoded=True, fit=Fit((4, 4))).pixels(tensor).shape == (2, 4, 4, 3)


@pytest.mark.parametrize("shape", [(9, 9, 1), (9, 9, 4), (9, 9), (1, 1, 9, 9, 3)])
def test_pixels_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"not a picture: expected \[height, width, 3\]"):
        PictureReader(3, fit=Fit((4, 4))).pixels(raw(noise(*shape)))


@pytest.mark.parametrize("shape", [(0, 9, 3), (9, 0, 3), (0, 9, 9, 3)])
@pytest.mark.parametrize("fit", [Fit(), Fit((4, 4), "cover")])
def test_pixels_of_nothing_are_refused(shape: tuple[int, ...], fit: Fit) -> None:
    with pytest.raises(RequestError, match="empty"):
        PictureReader(3, fit=fit).pixels(raw(noise(*shape)))
