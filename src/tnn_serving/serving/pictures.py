"""Pictures of requests, raw or encoded, as the pixels that the compiled graph takes.

What can be nodes of the graph is (see :mod:`tnn_serving.translate.pictures`); decoding and TNN's fixed-point resizing
cannot, and happen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from tnn_serving.config.model_config import Binding
from tnn_serving.emit.limits import spelled_bytes
from tnn_serving.errors import RequestError, located
from tnn_serving.pictures.decode import decode_mat
from tnn_serving.serving.side_by_side import side_by_side
from tnn_serving.serving.tensors import RequestTensor, array_of, elements
from tnn_serving.translate.pictures import PictureInput

S = TypeVar("S")


def prepare(
    tensor: RequestTensor, binding: Binding, picture: PictureInput, channels: int, *, most_bytes: float = math.inf
) -> np.ndarray:
    """The pictures of a request's tensor, decoded and in the size that the configuration asks for.

    Args:
        tensor: UINT8 [H, W, channels] or [N, H, W, channels]; or BYTES, an encoded picture an element.
        binding: of kind "pixels" or "encoded".
        picture: the configuration's settings.
        channels: of the network's input.
        most_bytes: of all pictures together.

    Returns:
        uint8 [N, H', W', channels]; the tensor's own memory where nothing changes.

    Raises:
        RequestError: a tensor that holds no such pictures, or pictures that differ in size and are not resized,
            or too large together.
    """
    if binding.kind == "encoded":
        files = list(elements(tensor))
        if not files:
            raise RequestError("no picture", expected="1 element", found=list(tensor.shape))
        return _stacked(partial(_decoded, picture=picture, channels=channels), files, most_bytes)
    pixels = array_of(tensor, binding.datatype)
    batch = pixels[None] if pixels.ndim == 3 else pixels
    if batch.ndim != 4 or batch.shape[-1] != channels:
        raise RequestError("not a picture", expected=f"[height, width, {channels}]", found=list(pixels.shape))
    if 0 in batch.shape:
        raise RequestError("picture is empty", found=list(pixels.shape))
    height, width = batch.shape[1:3]
    if picture.fit.placement(height, width).leaves(height, width):
        return batch
    return _stacked(partial(picture.fit.apply, channels=channels), list(batch), most_bytes)


def _decoded(file: bytes, *, picture: PictureInput, channels: int) -> np.ndarray:
    return picture.fit.apply(decode_mat(file, max_pixels=picture.max_pixels), channels)


def _stacked(make: Callable[[S], np.ndarray], sources: Sequence[S], most_bytes: float) -> np.ndarray:
    def numbered(index: int) -> np.ndarray:
        if len(sources) == 1:
            return make(sources[0])
        with located(f"picture {index + 1} of {len(sources)}"):
            one = make(sources[index])
            if one.nbytes * len(sources) > most_bytes:
                # They are all of one size, or refused: small files may hold large pictures.
                raise RequestError(
                    "pictures of one request are too large together",
                    expected=f"at most {spelled_bytes(most_bytes)} of pixels",
                    hint="the parameter `memory_limit_bytes` allows more",
                )
            return one

    made = side_by_side(numbered, range(len(sources)))
    if any(one.shape != made[0].shape for one in made):
        sizes = ", ".join(f"{one.shape[1]} x {one.shape[0]}" for one in made)
        raise RequestError("pictures of one request differ in size", found=sizes, hint="set the parameter `resize`")
    return np.stack(made)
