"""Resizing, cropping and warping beyond what was recorded: other forms of the same pictures, limits and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.errors import RequestError
from tnn_serving.pictures import (
    MatConvertParam,
    MatType,
    blob_to_mat,
    copy_make_border,
    crop,
    cvt_color,
    mat_to_blob,
    resize,
    resize_yuv,
    warp_affine,
    warp_affine_yuv,
)
from tnn_serving.pictures.crop import crop_yuv
from tnn_serving.pictures.mat import dequantize_blob, quantize_blob
from tnn_serving.pictures.planes import join_yuv, split_yuv

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


def test_yuv_crop_and_warp() -> None:
    yuv = noise(1, 18, 16)
    luma, chroma = split_yuv(crop_yuv(yuv, top_left_x=4, top_left_y=2, width=8, height=6))
    whole_luma, whole_chroma = split_yuv(yuv)
    np.testing.assert_array_equal(luma, whole_luma[:, 2:8, 4:12])
    np.testing.assert_array_equal(chroma, whole_chroma[:, 1:4, 2:6])
    same = warp_affine_yuv(yuv, np.array([[1, 0, 0], [0, 1, 0]]), 12, 16)
    np.testing.assert_array_equal(same, yuv)


def test_warp_border_replicate_repeats_the_edge() -> None:
    picture = noise(1, 6, 7, 3)
    moved = warp_affine(picture, np.array([[1, 0, 3], [0, 1, 2]]), 8, 10, border="replicate")
    np.testing.assert_array_equal(moved[0, 2:, 3:], picture[0])
    assert (moved[0, :2, 3:] == picture[0, 0]).all()
    assert (moved[0, 2:, :3] == picture[0, :, :1]).all()


def test_a_transform_that_cannot_be_inverted_shows_the_corner() -> None:
    picture = noise(1, 6, 7, 1)
    assert (warp_affine(picture, np.zeros((2, 3)), 3, 3) == picture[0, 0, 0]).all()


def test_yuv_batches_become_blobs_picture_by_picture() -> None:
    yuv = noise(2, 12, 10)
    blob = mat_to_blob(yuv, MatType.NNV21)
    bgr = cvt_color(yuv[1:], "NV21TOBGR")
    np.testing.assert_array_equal(blob[1], bgr[0].transpose(2, 0, 1))


def test_int32_mats_are_copied() -> None:
    mat = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(mat_to_blob(mat, MatType.NC_INT32), mat)
    np.testing.assert_array_equal(blob_to_mat(mat, MatType.NC_INT32), mat)


def test_quantised_blobs_round_halves_away_from_zero_and_saturate() -> None:
    values = np.array([[0.5, -0.5, 1.5, -1.5, 200.0, -200.0, 0.49]], np.float32)
    one = np.ones(1, np.float32)
    np.testing.assert_array_equal(quantize_blob(values, one), [[1, -1, 2, -2, 127, -128, 0]])
    np.testing.assert_array_equal(quantize_blob(values, np.zeros(1, np.float32)), np.zeros((1, 7)))
    shifted = quantize_blob(values[:, :4], one, np.array([3], np.int8))
    np.testing.assert_array_equal(shifted, [[4, 3, 5, 2]])
    np.testing.assert_array_equal(dequantize_blob(shifted, one, np.array([3], np.int8)), [[1, 0, 2, -1]])


def test_int8_blobs_become_mats_through_their_scale() -> None:
    codes = np.array([[[[-1, 5, 127]]]], np.int8)
    mat = blob_to_mat(codes, MatType.NGRAY, blob_scale=np.array([2.0], np.float32))
    np.testing.assert_array_equal(mat[0, 0, :, 0], [0, 10, 254])


BGR = MatConvertParam(reverse_channel=True)
REFUSED = {
    "resize to nothing": lambda: resize(noise(4, 4, 3), 0, 4),
    "resize of floats": lambda: resize(np.zeros((4, 4, 3), np.float32), 2, 2),
    "resize of a plane": lambda: resize(noise(4, 4), 2, 2),
    "resize of nothing": lambda: resize(noise(0, 4, 3), 2, 2),
    "odd yuv": lambda: resize_yuv(noise(1, 9, 7), 6, 6),
    "odd yuv target": lambda: resize_yuv(noise(1, 12, 8), 5, 6),
    "crop outside": lambda: crop(noise(4, 4, 3), top_left_x=2, top_left_y=0, width=3, height=2),
    "crop before": lambda: crop(noise(4, 4, 3), top_left_x=-1, top_left_y=0, width=3, height=2),
    "odd yuv crop": lambda: crop_yuv(noise(6, 4), top_left_x=1, top_left_y=0, width=2, height=2),
    "negative border": lambda: copy_make_border(noise(4, 4, 3), top=-1, bottom=0, left=0, right=0),
    "border value": lambda: copy_make_border(noise(4, 4, 3), top=1, bottom=0, left=0, right=0, border_val=256),
    "transform": lambda: warp_affine(noise(4, 4, 3), np.zeros((3, 3)), 4, 4),
    "transform nan": lambda: warp_affine(noise(4, 4, 3), np.full((2, 3), np.nan), 4, 4),
    "conversion": lambda: cvt_color(noise(1, 4, 4, 3), "BGRTOHSV"),
    "conversion channels": lambda: cvt_color(noise(1, 4, 4, 4), "BGRTOGRAY"),
    "mat channels": lambda: mat_to_blob(noise(1, 4, 4, 4), MatType.N8UC3),
    "blob channels": lambda: mat_to_blob(noise(1, 4, 4, 3), MatType.N8UC3, channels=4),
    "swap of floats": lambda: mat_to_blob(np.zeros((1, 3, 2, 2), np.float32), MatType.NCHW_FLOAT, BGR),
    "swap of grey": lambda: mat_to_blob(noise(1, 4, 4, 1), MatType.NGRAY, BGR),
    "short scale": lambda: mat_to_blob(noise(1, 4, 4, 3), MatType.N8UC3, MatConvertParam((2.0,), (0.0,))),
    "mat type": lambda: blob_to_mat(np.zeros((1, 3, 4, 4), np.float32), MatType.NNV12),
    "int32 as float": lambda: blob_to_mat(np.zeros((1, 3), np.int32), MatType.NCHW_FLOAT),
    "blob scale": lambda: quantize_blob(np.zeros((1, 3), np.float32), np.ones(2, np.float32)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_tnn_would_read_out_of_bounds_is_refused(what: str) -> None:
    with pytest.raises(RequestError):
        REFUSED[what]()
