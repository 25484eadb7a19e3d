"""Mats and blobs beyond what was recorded."""

from __future__ import annotations

import numpy as np

from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.mat import MatType, blob_to_mat, dequantize_blob, mat_to_blob, quantize_blob

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


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
