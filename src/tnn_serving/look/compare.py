"""Where two runs of a network part: blob by blob, in the order of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tnn_serving.deviation import deviation
from tnn_serving.errors import RequestError, ShapeError
from tnn_serving.graph import Graph
from tnn_serving.model import Model

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-3
"""Largest difference, as a share of the blob's largest value, that counts as equal."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One blob in two runs.

    Attributes:
        index, layer, type: the layer that produces the blob.
        max_abs: largest absolute difference.
        relative: the same over the largest absolute value of the reference.
        cosine: of the angle between the two blobs, 1 for equal direction.
        worst: index of the largest difference, with the value of each run.
        equal: relative is within the tolerance.
        problem: why the two cannot be compared (shapes), if so.
    """

    index: int
    layer: str
    type: str
    blob: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    cosine: float
    worst: tuple[int, ...]
    value: float
    reference: float
    equal: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All blobs that both runs have, in layer order; ``first`` is the first that differs."""

    left: str
    right: str
    tolerance: float
    blobs: list[Difference]
    first: Difference | None


def blobs_of(graph: Graph) -> list[str]:
    """Every blob that a layer produces, in layer order."""
    return [name for layer in graph.layers for name in layer.outputs]


def compare(
    graph: Graph, left: Arrays, right: Arrays, *, names: tuple[str, str], tolerance: float = TOLERANCE
) -> Comparison:
    """Compares the blobs of two runs; ``right`` is the reference.

    Raises:
        RequestError: the runs have no blob in common.
    """
    found = [
        _difference(index, layer.name, layer.type, blob, left[blob], right[blob], tolerance)
        for index, layer in enumerate(graph.layers)
        for blob in layer.outputs
        if blob in left and blob in right
    ]
    if not found:
        raise RequestError("nothing to compare: no blob is in both", expected=", ".join(blobs_of(graph)[:5]) + ", ...")
    return Comparison(*names, tolerance, found, next((d for d in found if not d.equal), None))


def run_everything(model: Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """Every blob of a model for these inputs."""
    return model.run(inputs, outputs=list(dict.fromkeys(blobs_of(model.graph))))


def random_inputs(model: Model, shapes: Mapping[str, Sequence[int]], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs to compare with where none are given: normal float numbers, small integers.

    Raises:
        ShapeError: a shape is given for an input that the model does not have.
    """
    unknown = set(shapes) - {spec.name for spec in model.inputs}
    if unknown:
        raise ShapeError(f"there is no input `{min(unknown)}`", expected=", ".join(s.name for s in model.inputs))
    random = np.random.default_rng(seed)
    made = {}
    for spec in model.inputs:
        if spec.name in model.optional_inputs:
            continue
        shape = tuple(shapes.get(spec.name, model.default_shapes[spec.name]))
        if spec.dtype.kind == "f":
            made[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            made[spec.name] = random.integers(0, 2, shape).astype(spec.dtype)
    return made


def _difference(
    index: int, layer: str, kind: str, blob: str, left: np.ndarray, right: np.ndarray, tolerance: float
) -> Difference:
    if left.shape != right.shape:
        nan = math.nan
        problem = f"shapes differ: {list(left.shape)} and {list(right.shape)}"
        return Difference(index, layer, kind, blob, left.shape, nan, nan, nan, (), nan, nan, False, problem)
    found = deviation(left, right)
    return Difference(
        index,
        layer,
        kind,
        blob,
        left.shape,
        found.max_abs,
        found.relative,
        _cosine(left, right),
        found.worst,
        found.value,
        found.reference,
        found.relative <= tolerance,
    )


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    if not left.size:
        return 1.0
    a, b = left.astype(np.float64).reshape(-1), right.astype(np.float64).reshape(-1)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else float(np.array_equal(a, b))
