"""Recordings of the real TNN: where they lie, and how a case is read.

A layer type is one zip in ``data/conformance``, a case one .npz in it; ``data/mat.zip`` holds the picture conversions.
Zips are opened when a case is read; listing cases reads only their directories.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
DATA = HERE / "data"
CONFORMANCE = DATA / "conformance"
PICTURES = DATA / "mat.zip"
SHARED = HERE.parent.parent / "shared"
"""Material that is not part of the product; tests that need it say so and skip where it is absent."""


class CaseId(NamedTuple):
    """Which case: the folder, which is a type name or a collection such as ``_networks``, and its name there."""

    folder: str
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class Case:
    """A recorded network: files, inputs, outputs."""

    id: CaseId
    proto: bytes
    model: bytes
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    meta: dict[str, Any]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def quantized(self) -> bool:
        """Inputs and outputs are int8 codes."""
        return bool(self.meta["quantized"])


@lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    """A zip, read whole: the largest has some hundred kilobytes."""
    return zipfile.ZipFile(io.BytesIO(path.read_bytes()))


@cache
def _names(path: Path) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        return tuple(name.removesuffix(".npz") for name in archive.namelist())


def arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of one .npz in a zip."""
    with np.load(io.BytesIO(_archive(path).read(f"{name}.npz"))) as data:
        return {key: data[key] for key in data.files}


def folders() -> list[str]:
    """What there are cases of, in order."""
    return sorted(path.stem for path in CONFORMANCE.glob("*.zip"))


def case_ids(folder: str | None = None) -> list[CaseId]:
    """All cases, or those of one folder, in order."""
    wanted = folders() if folder is None else [folder]
    return [CaseId(where, name) for where in wanted for name in _names(CONFORMANCE / f"{where}.zip")]


def read_case(case: CaseId) -> Case:
    """Files, inputs and outputs of a case."""
    stored = arrays(CONFORMANCE / f"{case.folder}.zip", case.name)
    return Case(
        case,
        stored["proto"].tobytes(),
        stored["model"].tobytes(),
        {key[3:]: value for key, value in stored.items() if key.startswith("in.")},
        {key[4:]: value for key, value in stored.items() if key.startswith("out.")},
        json.loads(stored["meta"].tobytes()),
    )


def cases(folder: str | None = None) -> Iterator[Case]:
    """All cases, or those of one folder, read one by one."""
    return map(read_case, case_ids(folder))


def picture_names() -> list[str]:
    """All recorded picture conversions."""
    return list(_names(PICTURES))


def difference(got: np.ndarray, want: np.ndarray, *, relative: float = 1e-4) -> str | None:
    """Why two outputs are not equal: in shape, type, whole numbers, or by more than the tolerance; None if they are.

    Args:
        relative: of the largest magnitude wanted, or of 1 if that is less.
    """
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
        at = tuple(map(int, np.unravel_index(int(np.argmax(wrong)), got.shape)))
        return f"{int(wrong.sum())} of {got.size} integers differ, first at {at}: {got[at]} instead of {want[at]}"
    finite = np.abs(want[np.isfinite(want)])
    limit = relative * max(1.0, float(finite.max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = np.where(same, 0.0, np.nan_to_num(error, nan=np.inf))
    if error.max() <= limit:
        return None
    at = tuple(map(int, np.unravel_index(int(np.argmax(error)), got.shape)))
    return f"off by {error.max():.3g} (allowed {limit:.3g}) at {at}: {got[at]} instead of {want[at]}"
