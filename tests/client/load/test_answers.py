"""Which answers count as equal."""

from __future__ import annotations

import numpy as np

from tnn_serving.client.load.answers import Expected


def test_rounding_is_no_error() -> None:
    y = np.array([1.0, -2.0, 3.0], np.float32)
    expected = Expected({"y": y})
    assert expected.check_http(0, memoryview(b"{}" + (y * np.float32(1.0001)).tobytes())) is None
    assert expected.check_http(0, memoryview(b"{}" + (y * np.float32(1.01)).tobytes())) is not None
    assert expected.check_http(0, memoryview(b"{}")) == "answer is too short: 2 bytes"
