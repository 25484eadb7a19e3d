"""Resizing beyond what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.pictures.planes import join_yuv, split_yuv
from tnn_serving.pictures.resize import resize, resize_yuv

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def slow_linear(source: np.ndarray, height: int, width: int) -> np.ndarray:
    """The formula of TNN's linear resize, one byte at a time."""

    def tap(i: int, src: int, dst: int) -> tuple[int, int, int]:
        p = np.float32((i + 0.5) * (src / dst) - 0.5)
        k = int(np.floor(p))
        r = np.float32(p - np.float32(k))
        if k < 0:
            k, r = 0, np.float32(0)
        if k >= src - 1:
            k, r = src - 2, np.float32(1)
        unit, half = np.float32(2048), np.float32(0.5)
        return k, int((np.float32(1) - r) * unit + half), int(r * unit + half)

    out = np.empty((height, width, source.shape[2]), np.uint8)
    for y in range(height):
        ky, b0, b1 = tap(y, source.shape[0], height)
        for x in range(width):
            kx, a0, a1 = tap(x, source.shape[1], width)
            for c in range(source.shape[2]):
                rows = [int(source[ky + d, kx, c]) * a0 + int(source[ky + d, kx + 1, c]) * a1 >> 4 for d in (0, 1)]
                out[y, x, c] = (rows[0] * b0 >> 16) + (rows[1] * b1 >> 16) + 2 >> 2
    return out


@pytest.mark.parametrize("size", [(5, 9), (31, 7), (40, 33), (13, 17), (1, 1), (64, 2)])
def test_linear_resize_follows_the_formula(size: tuple[int, int]) -> None:
    picture = noise(20, 23, 3)
    np.testing.assert_array_equal(resize(picture, *size), slow_linear(picture, *size))


@pytest.mark.parametrize("interp", ["linear", "nearest"])
def test_a_constant_picture_stays_constant(interp: str) -> None:
    for value in (0, 1, 127, 254, 255):
        assert (resize(np.full((9, 11, 3), value, np.uint8), 30, 5, interp) == value).all()


def test_sides_of_one_pixel_are_repeated() -> None:
    row = noise(1, 6, 3)
    assert (resize(row, 4, 6) == row).all()
    assert (resize(noise(1, 1, 1)[..., :1] * 0 + 9, 3, 3) == 9).all()


def test_batches_are_resized_picture_by_picture() -> None:
    batch = noise(2, 3, 8, 10, 4)
    resized = resize(batch, 5, 12)
    np.testing.assert_array_equal(resized[1, 2], resize(batch[1, 2], 5, 12))


@pytest.mark.parametrize("interp", ["linear", "nearest"])
def test_yuv_planes_are_resized_separately(interp: str) -> None:
    yuv = noise(2, 12, 10)
    luma, chroma = split_yuv(yuv)
    resized_luma, resized_chroma = split_yuv(resize_yuv(yuv, 6, 14, interp))
    np.testing.assert_array_equal(resized_luma, resize(luma[..., None], 6, 14, interp)[..., 0])
    np.testing.assert_array_equal(resized_chroma, resize(chroma, 3, 7, interp))
    np.testing.assert_array_equal(join_yuv(luma, chroma), yuv)
