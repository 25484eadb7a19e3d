"""Pictures as tensors for a model's picture input."""

from __future__ import annotations

import os

import numpy as np

from tnn_serving.client.connection import ModelInfo, TensorInfo
from tnn_serving.errors import RequestError, located
from tnn_serving.formats.reading import FileKind, read_file
from tnn_serving.pictures.decode import decode
from tnn_serving.pictures.encode import encode_png

PICTURE = FileKind("a picture", RequestError, 1 << 28)


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 [H, W, 3] (R, G, B) of a picture file.

    Raises:
        RequestError: the file cannot be read, or is not a picture.
    """
    with located(os.fspath(path)):
        return decode(read_file(path, PICTURE))


def picture_tensor(model: ModelInfo, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The picture for the model's only input: pixels, or a PNG file; with a batch dim of 1 if the model has one.

    Raises:
        RequestError: the model does not take one picture of this size.
    """
    item = model.picture_input
    if item.datatype == "BYTES":
        return {item.name: np.array([encode_png(pixels)], np.object_).reshape([1] * len(item.shape))}
    array = pixels[None] if len(item.shape) == 4 else pixels
    _check_size(item, array.shape)
    return {item.name: np.ascontiguousarray(array)}


def _check_size(item: TensorInfo, shape: tuple[int, ...]) -> None:
    if any(want not in (-1, have) for want, have in zip(item.shape, shape, strict=True)):
        raise RequestError(
            f"input `{item.name}` takes pictures of another size", expected=list(item.shape), found=list(shape)
        )
