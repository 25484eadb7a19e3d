"""From a request's tensor to the pixels that the graph takes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tnn_serving.config.model_config import Binding
from tnn_serving.errors import RequestError
from tnn_serving.pictures import cvt_color, resize
from tnn_serving.pictures.fit import Fit
from tnn_serving.serving.pictures import prepare
from tnn_serving.serving.tensors import RequestTensor
from tnn_serving.translate.pictures import PictureInput

RNG = np.random.default_rng(5)
PIXELS = Binding("x", "UINT8", (-1, -1, 3), "pixels")
FILES = Binding("x", "BYTES", (1,), "encoded")


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
    for settings in (PictureInput(), PictureInput(fit=Fit((6, 8))), PictureInput(fit=Fit((6, 8), "letterbox"))):
        tensor = raw(picture)
        got = prepare(tensor, PIXELS, settings, 3)
        np.testing.assert_array_equal(got, picture[None])
        assert np.shares_memory(got, np.frombuffer(tensor.data, np.uint8))


def test_a_batch_of_pixels_is_resized_picture_by_picture() -> None:
    batch = noise(5, 20, 30, 3)
    got = prepare(raw(batch), PIXELS, PictureInput(fit=Fit((8, 9))), 3)
    np.testing.assert_array_equal(got, resize(batch, 8, 9))


def test_a_batch_of_files_of_any_sizes() -> None:
    pictures = [noise(*size, 3) for size in ((20, 30), (9, 50), (31, 7), (8, 9))]
    settings = PictureInput(fit=Fit((8, 9), "letterbox", border=(1, 2, 3)))
    got = prepare(files(*map(png, pictures)), FILES, settings, 3)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.stack([settings.fit.apply(picture, 3) for picture in pictures]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_of_other_channels_than_the_network(channels: int) -> None:
    grey, colour, alpha = noise(9, 9, 1), noise(9, 9, 3), noise(9, 9, 4)
    got = prepare(files(png(grey), png(colour), png(alpha)), FILES, PictureInput(), channels)
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
    assert prepare(files(file), FILES, PictureInput(max_pixels=600), 3).shape == (1, 20, 30, 3)
    with pytest.raises(RequestError, match="too large: expected at most 599 pixels, found 30 x 20"):
        prepare(files(file), FILES, PictureInput(max_pixels=599), 3)


def test_the_bad_picture_of_several_is_named() -> None:
    good = png(noise(9, 9, 3))
    with pytest.raises(RequestError, match="picture 2 of 3: not a picture"):
        prepare(files(good, b"hello", good), FILES, PictureInput(), 3)
    with pytest.raises(RequestError, match=r"^not a picture"):
        prepare(files(b"hello"), FILES, PictureInput(), 3)


def test_pictures_that_differ_need_a_size() -> None:
    tensor = files(png(noise(9, 8, 3)), png(noise(9, 9, 3)))
    with pytest.raises(RequestError, match=r"differ in size: found 8 x 9, 9 x 9 \(set the parameter `resize`\)"):
        prepare(tensor, FILES, PictureInput(), 3)
    assert prepare(tensor, FILES, PictureInput(fit=Fit((4, 4))), 3).shape == (2, 4, 4, 3)


@pytest.mark.parametrize("shape", [(9, 9, 1), (9, 9, 4), (9, 9), (1, 1, 9, 9, 3)])
def test_pixels_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"not a picture: expected \[height, width, 3\]"):
        prepare(raw(noise(*shape)), PIXELS, PictureInput(fit=Fit((4, 4))), 3)


@pytest.mark.parametrize("shape", [(0, 9, 3), (9, 0, 3), (0, 9, 9, 3)])
@pytest.mark.parametrize("fit", [Fit(), Fit((4, 4), "cover")])
def test_pixels_of_nothing_are_refused(shape: tuple[int, ...], fit: Fit) -> None:
    with pytest.raises(RequestError, match="empty"):
        prepare(raw(noise(*shape)), PIXELS, PictureInput(fit=fit), 3)
