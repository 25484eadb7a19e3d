"""Every recorded picture conversion of the real TNN, to the bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.recordings import PICTURES, arrays, picture_names
from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.crop import copy_make_border, crop
from tnn_serving.pictures.mat import MatConvertParam, MatType, blob_to_mat, mat_to_blob
from tnn_serving.pictures.resize import resize, scaled_size
from tnn_serving.pictures.warp import warp_affine

COUNTS = {
    "blob_to_mat": 11,
    "copy_make_border": 6,
    "crop": 9,
    "cvt_color": 24,
    "mat_to_blob": 70,
    "resize": 36,
    "warp_affine": 30,
}


STD, MEAN = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)
EXACT = {
    f"{value:g}": value
    for value in (1 / 255, 2 / 255, *(1 / (255 * s) for s in STD), *(-m / s for m, s in zip(MEAN, STD, strict=True)))
}
"""The recordings print scale and bias with six digits; TNN was given these."""


def _convert_param(meta: dict[str, Any]) -> MatConvertParam:
    scale, bias = (tuple(EXACT.get(f"{value:g}", value) for value in meta[key]) for key in ("scale", "bias"))
    return MatConvertParam(scale, bias, meta["reverse_channel"])


def _mat_to_blob(src: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    scale = meta.get("blob_scale")
    return mat_to_blob(
        src,
        MatType[meta["mat_type"]],
        _convert_param(meta),
        channels=meta["blob_dims"][1],
        blob_scale=None if scale is None else np.array(scale, np.float32),
    )


def _resize(src: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    height, width = meta["dst_dims_nchw"][2:]
    if meta["scale_w"] > 0:
        assert scaled_size(*meta["src_dims_nchw"][2:], meta["scale_h"], meta["scale_w"]) == (height, width)
    return resize(src, height, width, meta["interp"])


RUN = {
    "blob_to_mat": lambda src, m: blob_to_mat(src, MatType[m["mat_type"]], _convert_param(m)),
    "mat_to_blob": _mat_to_blob,
    "cvt_color": lambda src, m: cvt_color(src, m["conversion"]),
    "crop": lambda src, m: crop(
        src, top_left_x=m["top_left_x"], top_left_y=m["top_left_y"], width=m["width"], height=m["height"]
    ),
    "copy_make_border": lambda src, m: copy_make_border(
        src, top=m["top"], bottom=m["bottom"], left=m["left"], right=m["right"], border_val=m["border_val"]
    ),
    "resize": _resize,
    "warp_affine": lambda src, m: warp_affine(
        src,
        np.array(m["transform"]).reshape(2, 3),
        *m["dst_dims_nchw"][2:],
        interp=m["interp"],
        border=m["border"],
        border_val=m["border_val"],
    ),
}


def test_all_recordings_are_there() -> None:
    found = {op: sum(case.startswith(op) for case in picture_names()) for op in COUNTS}
    assert found == COUNTS


@pytest.mark.parametrize("case", picture_names())
def test_recorded_conversion(case: str) -> None:
    recorded = arrays(PICTURES, case)
    meta = json.loads(recorded["meta"].tobytes())
    src, expected = recorded["src"], recorded["out"]
    got = RUN[meta["op"]](src, meta)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
