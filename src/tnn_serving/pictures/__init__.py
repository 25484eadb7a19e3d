"""Picture operations of TNN's Mat: decoding, resizing, warping, colours, conversion to and from blobs, drawing.

In: encoded files or uint8 arrays.  Out: uint8 arrays and float32 blobs, bit-identical to TNN's.
Needs numpy and Pillow; imports only :mod:`tnn_serving.errors` from the package.
"""

from __future__ import annotations

from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.crop import copy_make_border, crop
from tnn_serving.pictures.decode import MAX_PIXELS, decode
from tnn_serving.pictures.draw import draw_detections
from tnn_serving.pictures.encode import encode_png, write_picture
from tnn_serving.pictures.mat import MatConvertParam, MatType, blob_to_mat, mat_to_blob
from tnn_serving.pictures.resize import resize, resize_yuv
from tnn_serving.pictures.warp import warp_affine, warp_affine_yuv

__all__ = [
    "MAX_PIXELS",
    "MatConvertParam",
    "MatType",
    "blob_to_mat",
    "copy_make_border",
    "crop",
    "cvt_color",
    "decode",
    "draw_detections",
    "encode_png",
    "mat_to_blob",
    "resize",
    "resize_yuv",
    "warp_affine",
    "warp_affine_yuv",
    "write_picture",
]
