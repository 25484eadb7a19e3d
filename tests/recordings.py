"""Where recordings of the real TNN lie, and how a case is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"
"""Material that is not part of the product; tests that need it say so and skip where it is absent."""

CONFORMANCE = SHARED / "conformance"


@dataclass(frozen=True)
class Case:
    """A recorded network: files, inputs, outputs."""

    layer: str
    name: str
    proto: bytes
    model: bytes
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    meta: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.layer}/{self.name}"


def read_case(path: Path) -> Case:
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    return Case(
        path.parent.name,
        path.stem,
        arrays["proto"].tobytes(),
        arrays["model"].tobytes(),
        {key[3:]: value for key, value in arrays.items() if key.startswith("in.")},
        {key[4:]: value for key, value in arrays.items() if key.startswith("out.")},
        json.loads(arrays["meta"].tobytes()),
    )


def case_paths() -> list[Path]:
    return [path for path in sorted(CONFORMANCE.glob("*/*.npz")) if path.parent.name != "_mat"]


def cases() -> Iterator[Case]:
    for path in case_paths():
        yield read_case(path)


def difference(got: np.ndarray, want: np.ndarray) -> str | None:
    """Why two outputs are not equal within the conformance tolerance; None if they are."""
    if got.shape != want.shape:
        return f"shape {got.shape} instead of {want.shape}"
    if got.dtype != want.dtype:
        return f"type {got.dtype} instead of {want.dtype}"
    if not got.size:
        return None
    if want.dtype.kind in "iu":
        wrong = got != want
        if not wrong.any():
            return None
        at = np.unravel_index(int(np.argmax(wrong)), got.shape)
        return f"{int(wrong.sum())} of {got.size} integers differ, first at {at}: {got[at]} instead of {want[at]}"
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    limit = 1e-4 * max(1.0, float(np.abs(want).max()))
    if not error.max() <= limit:
        at = np.unravel_index(int(np.nanargmax(error)) if np.isfinite(error).any() else 0, got.shape)
        return f"off by {error.max():.3g} (allowed {limit:.3g}) at {at}: {got[at]} instead of {want[at]}"
    return None


ENGINES = tuple(os.environ.get("TNN_TEST_ENGINES", "openvino,onnxruntime").split(","))
