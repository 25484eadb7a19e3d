"""Bodies of requests as text."""

from __future__ import annotations

import json

import numpy as np

from tnn_serving.client.request import file_body, request_body


def test_a_body_holds_nested_pixels() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    body = json.loads(json.dumps(request_body("data", pixels)))
    assert body == {
        "inputs": [{"name": "data", "datatype": "UINT8", "shape": [1, 2, 3], "data": [[[1, 2, 3], [4, 5, 6]]]}]
    }
    assert request_body("data", pixels, batch=True)["inputs"][0]["shape"] == [1, 1, 2, 3]


def test_a_body_holds_a_file_as_base64() -> None:
    assert file_body("data", b"\xff\xd8\xff") == {
        "inputs": [{"name": "data", "datatype": "BYTES", "shape": [1], "data": ["/9j/"]}]
    }
    assert file_body("data", b"", batch=True)["inputs"][0]["shape"] == [1, 1]
