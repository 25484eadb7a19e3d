"""The JSON body of an inference request, for curl and similar tools."""

from __future__ import annotations

from typing import Any

import numpy as np


def request_body(name: str, pixels: np.ndarray, *, batch: bool = False) -> dict[str, Any]:
    """The body of ``POST /v2/models/MODEL/infer`` with a picture as nested lists.

    Args:
        name: of the model's picture input.
        pixels: uint8 [H, W, C] in the model's channel order.
        batch: the input has a batch dim.
    """
    array = pixels[None] if batch else pixels
    return {"inputs": [{"name": name, "datatype": "UINT8", "shape": list(array.shape), "data": array.tolist()}]}
