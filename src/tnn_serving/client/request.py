"""The JSON body of an inference request, for curl and similar tools."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def file_body(name: str, file: bytes, *, batch: bool = False) -> dict[str, Any]:
    """The body of ``POST /v2/models/MODEL/infer`` with a picture file as base64.

    Args:
        name: of the model's picture input.
        file: JPEG, PNG, WebP or BMP.
        batch: the input has a batch dim.
    """
    text = base64.b64encode(file).decode()
    return {"inputs": [{"name": name, "datatype": "BYTES", "shape": [1, 1] if batch else [1], "data": [text]}]}


def request_body(name: str, pixels: np.ndarray, *, batch: bool = False) -> dict[str, Any]:
    """The body of ``POST /v2/models/MODEL/infer`` with a picture as nested lists.

    Args:
        name: of the model's picture input.
        pixels: uint8 [H, W, C] in the model's channel order.
        batch: the input has a batch dim.
    """
    array = pixels[None] if batch else pixels
    return {"inputs": [{"name": name, "datatype": "UINT8", "shape": list(array.shape), "data": array.tolist()}]}
