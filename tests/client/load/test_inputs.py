"""Inputs that are made or read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.load.sending import send
from tests.servers import Running
from tnn_serving.client.load import LoadTarget
from tnn_serving.errors import RequestError


def test_inputs_that_cannot_be_made(loaded: Running, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "free dims.*--shape x=1x"),
        ({"shapes": {"z": (1,)}}, "no input `z`.*expected x"),
        ({"shapes": {"x": (3, 8)}}, "another shape"),
        ({"shapes": {"x": (1, 3, 8, 8)}, "batch": 4}, "does not take a batch of 4"),
        ({"data": tmp_path / "missing.npz"}, "data cannot be read"),
    ]
    np.savez(tmp_path / "other.npz", z=np.zeros(3, np.float32))
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 3, 8, 8), np.complex64))
    cases += [
        ({"data": tmp_path / "other.npz"}, "no array `x`"),
        ({"data": tmp_path / "wrong.npz"}, "not hold numbers"),
    ]
    for options, text in cases:
        with pytest.raises(RequestError, match=text):
            LoadTarget(loaded.address("http"), "relu", **options)


def test_inputs_from_a_file(loaded: Running, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 12, dtype=np.float64).reshape(1, 3, 2, 2)
    np.savez(tmp_path / "data.npz", **{"in.x": x, "out.y": x})
    with (
        LoadTarget(loaded.address("http"), "relu", data=tmp_path / "data.npz", verify=True) as target,
        target.loop(1) as loop,
    ):
        np.testing.assert_array_equal(target.outputs["y"], np.maximum(x, 0).astype(np.float32))
        assert send(loop, 3).errors == []
