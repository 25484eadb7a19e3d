"""Where two runs of a network differ: blob by blob, in the order of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnn_serving.choices import Int8Choice
from tnn_serving.deviation import deviation
from tnn_serving.engines import ENGINES, TensorSpec
from tnn_serving.engines.base import Arrays
from tnn_serving.errors import RequestError, ShapeError
from tnn_serving.look.defaults import COMPARE_TOLERANCE
from tnn_serving.model import Model
from tnn_serving.nearest import did_you_mean, listed
from tnn_serving.network.formats import open_network
from tnn_serving.network.views import LayerView
from tnn_serving.prepare.load import load
from tnn_serving.prepare.recorded_case import read_recording

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source


@dataclass(frozen=True, slots=True)
class Difference:
    """One blob in two runs.

    Attributes:
        index, layer, type: the layer that produces the blob.
        shape: in the first run.
        max_abs: largest absolute difference.
        relative: the same over the largest absolute value of the reference; see :mod:`tnn_serving.deviation`.
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


def compare(
    source: Source,
    other: Source | None = None,
    *,
    against: Path | None = None,
    engines: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    blobs: Sequence[str] = (),
    tolerance: float = COMPARE_TOLERANCE,
    int8: Int8Choice = "exact",
    reference_int8: Int8Choice | None = None,
    seed: int = 0,
) -> Comparison:
    """Runs a model and something to compare it with: a recording, another model, or itself on another engine.

    Two models may be of different formats: a TNN model and the ONNX model that it was made from. Inputs, outputs and
    blobs belong together by name; of inputs and outputs whose names differ, the first belongs to the first, and so on.

    Args:
        source: see :func:`tnn_serving.load`.
        other: a second model, which is the reference.
        against: a recording, which is the reference: an .npz with ``in.BLOB`` and ``out.BLOB`` arrays.
        engines: the engines to compare, or the first of them to use; all if left out.
        shapes: of random inputs, where they are not the model's own.
        blobs: only these.
        tolerance: largest difference over the largest value that counts as equal.
        int8: form of int8 layers.
        reference_int8: their form in the reference, if it is another one.
        seed: of random inputs, where no recording gives them.

    Raises:
        What :func:`tnn_serving.load` and :meth:`tnn_serving.Model.run` raise, and:
        RequestError: there is nothing to compare, or the recording cannot be read.
        ShapeError: the inputs of two models do not belong together.
    """
    first, second = _two(engines)
    network = open_network(source)
    left = load(network, first, int8=int8)
    name = f"{network.source} on {left.engine}" + (f", int8 {int8}" if reference_int8 else "")
    if against is not None:
        inputs, found = read_recording(against)
        inputs = inputs or random_inputs(left, shapes or {}, seed=seed)
        reference, pairs = str(against), dict[str, str]()
    else:
        form = reference_int8 or int8
        right = load(network, second, int8=form) if other is None else load(other, first, int8=form)
        fed = _inputs_together(left, right)
        inputs = random_inputs(left, {**_common_shapes(left, right, fed), **(shapes or {})}, seed=seed)
        found = run_everything(right, _fed(left, right, inputs, fed))
        pairs = _together(left.network.outputs, right.network.outputs)
        others = [f"`{mine}` is `{theirs}`" for mine, theirs in (*fed.items(), *pairs.items()) if mine != theirs]
        reference = f"{right.network.source} on {right.engine}" + (f", int8 {reference_int8}" if reference_int8 else "")
        reference += f", where {' and '.join(others)}" if others else ""
    mine = run_everything(left, inputs)
    for name in blobs:
        if name not in mine:
            raise RequestError(f"there is no blob `{name}`", expected=listed(mine), hint=did_you_mean(name, mine))
    if blobs:
        mine = {blob: array for blob, array in mine.items() if blob in blobs}
    return differences(network.layers(), mine, found, names=(name, reference), tolerance=tolerance, pairs=pairs)


def differences(
    layers: Sequence[LayerView],
    left: Arrays,
    right: Arrays,
    *,
    names: tuple[str, str],
    tolerance: float = COMPARE_TOLERANCE,
    pairs: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares the blobs of two runs; ``right`` is the reference.

    Args:
        layers: those of the first run.
        names: of the runs.
        pairs: names of blobs in the reference, where they are others.

    Raises:
        RequestError: the runs have no blob in common.
    """
    other = {mine: theirs for mine, theirs in (pairs or {}).items() if mine in left and theirs in right}
    other.update({blob: blob for blob in left if blob in right})
    found = [
        _difference(layer, blob, left[blob], right[other[blob]], tolerance)
        for layer in layers
        for blob in layer.outputs
        if blob in other
    ]
    if not found:
        known = [blob for layer in layers for blob in layer.outputs]
        raise RequestError("nothing to compare: no blob is in both", expected=", ".join(known[:5]) + ", ...")
    return Comparison(*names, tolerance, found, next((d for d in found if not d.equal), None))


def run_everything(model: Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """Every blob of a model for these inputs."""
    return model.run(inputs, outputs=list(model.blobs()))


def random_inputs(model: Model, shapes: Mapping[str, Sequence[int]], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs to compare with where none are given: normal float numbers, small integers.

    Raises:
        ShapeError: a shape is given for an input that the model does not have.
    """
    unknown = set(shapes) - {spec.name for spec in model.inputs}
    if unknown:
        known, name = [spec.name for spec in model.inputs], min(unknown)
        raise ShapeError(f"there is no input `{name}`", expected=listed(known), hint=did_you_mean(name, known))
    random = np.random.default_rng(seed)
    made = {}
    for spec in model.inputs:
        if spec.name in model.optional_inputs:
            continue
        shape = tuple(shapes.get(spec.name, model.default_shapes[spec.name]))
        if spec.name in model.sized and model.sized[spec.name].shape == shape:
            made[spec.name] = model.sized[spec.name]
        elif spec.dtype.kind == "f":
            made[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            made[spec.name] = random.integers(0, 2, shape).astype(spec.dtype)
    return made


def _two(engines: Sequence[str]) -> tuple[str, str]:
    """The engine to use, and one to compare it with."""
    first, *others = engines or ENGINES
    return first, next(iter(others), next((name for name in ENGINES if name != first), first))


def _together(left: Sequence[str], right: Sequence[str]) -> dict[str, str]:
    """Names that belong together: equal ones, and of the others the first with the first, and so on."""
    mine = [name for name in left if name not in right]
    theirs = [name for name in right if name not in left]
    return {**{name: name for name in left if name in right}, **dict(zip(mine, theirs, strict=False))}


def _inputs_together(left: Model, right: Model) -> dict[str, str]:
    mine, theirs = ([s.name for s in model.inputs if s.name not in model.optional_inputs] for model in (left, right))
    if len(mine) != len(theirs):
        raise ShapeError("the models do not take the same inputs", expected=", ".join(theirs), found=", ".join(mine))
    return _together(mine, theirs)


def _common_shapes(left: Model, right: Model, fed: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shapes that both models take: what one of them leaves free, the other may fix."""
    theirs = {spec.name: spec.shape for spec in right.inputs}
    found = {}
    for spec in left.inputs:
        other = theirs.get(fed.get(spec.name, ""))
        if other is not None and len(other) == len(spec.shape):
            default = left.default_shapes[spec.name]
            dims = zip(spec.shape, other, default, strict=True)
            found[spec.name] = tuple(size if a is not None or b is None else b for a, b, size in dims)
    return found


def _fed(left: Model, right: Model, inputs: Arrays, fed: Mapping[str, str]) -> Arrays:
    """The inputs of one model under the names of another, which must take their shapes."""
    specs = {spec.name: spec for spec in right.inputs}
    for name, theirs in fed.items():
        shape, spec = inputs[name].shape, specs[theirs]
        if not _fits(shape, spec):
            moved = [(shape[0], *shape[2:], shape[1]), (shape[0], shape[-1], *shape[1:-1])] if len(shape) > 2 else []
            other = any(_fits(dims, spec) for dims in moved)
            raise ShapeError(
                f"input `{name}` of {left.network.source} does not fit input `{theirs}` of {right.network.source}",
                expected=["any" if dim is None else dim for dim in spec.shape],
                found=list(shape),
                hint="one of them has the channels last" if other else None,
            )
    return {fed[name]: array for name, array in inputs.items()}


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        want in (None, have) for want, have in zip(spec.shape, shape, strict=True)
    )


def _difference(layer: LayerView, blob: str, left: np.ndarray, right: np.ndarray, tolerance: float) -> Difference:
    place = layer.index, layer.name, layer.type, blob, left.shape
    if _sizes(left) != _sizes(right):
        nan = math.nan
        problem = f"shapes differ: {list(left.shape)} and {list(right.shape)}"
        return Difference(*place, nan, nan, nan, (), nan, nan, False, problem)
    right = right.reshape(left.shape)
    found = deviation(left, right)
    cosine = _cosine(left, right) if found.relative else 1.0
    return Difference(
        *place,
        found.max_abs,
        found.relative,
        cosine,
        found.worst,
        found.value,
        found.reference,
        found.relative <= tolerance,
    )


def _sizes(array: np.ndarray) -> list[int]:
    """The dims but those of 1, which TNN keeps where ONNX has none: [N, C, 1, 1] of a full connection."""
    return [size for size in array.shape if size != 1]


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    a, b = left.astype(np.float64).reshape(-1), right.astype(np.float64).reshape(-1)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0
