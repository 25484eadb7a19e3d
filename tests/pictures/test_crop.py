"""Cropping of planes."""

from __future__ import annotations

import numpy as np

from tnn_serving.pictures.crop import crop_yuv
from tnn_serving.pictures.planes import split_yuv
from tnn_serving.pictures.warp import warp_affine_yuv

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_yuv_crop_and_warp() -> None:
    yuv = noise(1, 18, 16)
    luma, chroma = split_yuv(crop_yuv(yuv, top_left_x=4, top_left_y=2, width=8, height=6))
    whole_luma, whole_chroma = split_yuv(yuv)
    np.testing.assert_array_equal(luma, whole_luma[:, 2:8, 4:12])
    np.testing.assert_array_equal(chroma, whole_chroma[:, 1:4, 2:6])
    same = warp_affine_yuv(yuv, np.array([[1, 0, 0], [0, 1, 0]]), 12, 16)
    np.testing.assert_array_equal(same, yuv)
