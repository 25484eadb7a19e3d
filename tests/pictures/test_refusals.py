"""Pictures and parameters that every step refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.crop import copy_make_border, crop, crop_yuv
from tnn_serving.pictures.mat import MatConvertParam, MatType, blob_to_mat, mat_to_blob, quantize_blob
from tnn_serving.pictures.resize import resize, resize_yuv
from tnn_serving.pictures.warp import warp_affine

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


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
