"""Whether a converted network answers like its source: both are run, and the first node that differs is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tnn_serving.deviation import deviation
from tnn_serving.engines import ENGINES, following_onnx
from tnn_serving.engines.base import Arrays
from tnn_serving.errors import ConversionError, RequestError, TnnError
from tnn_serving.layers.weights import narrowed
from tnn_serving.look.compare import differences, random_inputs, run_everything
from tnn_serving.model import Model
from tnn_serving.prepare.load import load

if TYPE_CHECKING:
    import onnx

    from tnn_serving.graph import Graph

TOLERANCE = 1e-4
"""Largest difference of an output, as a share of its largest value, that counts as equal."""


ROUNDING = 1e-6
"""Differences up to this one count as none: functions such as Sigmoid are computed with numbers near 1 in float32."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One run of both networks.

    Attributes:
        shapes: of the inputs.
        largest: largest difference of an output, as a share of its largest value.
    """

    shapes: dict[str, tuple[int, ...]]
    largest: float


@dataclass(slots=True)
class SelfCheck:
    """How far a converted network was tried.

    Attributes:
        tried: the runs, the first at the default shapes.
        untried: why a second size was not tried, or does not work; ``None`` if it was, or if no size is free.
    """

    tried: list[Tried] = field(default_factory=list)
    untried: str | None = None


def self_check(
    graph: Graph,
    model: onnx.ModelProto,
    places: Mapping[str, str],
    inputs: Arrays | None,
    *,
    tolerance: float = TOLERANCE,
) -> SelfCheck:
    """Runs both networks on the same inputs, at the default shapes and, where sizes are free, at others.

    Args:
        graph: the converted network.
        model: its source.
        places: by the name of a layer, the ONNX node that it was made for.
        inputs: the inputs; random ones if left out, and at the second size.

    Raises:
        ConversionError: an output differs.
        RequestError: the inputs are not the network's.
    """
    reference = following_onnx(ENGINES.values())  # its answer is the meaning of an ONNX network
    if reference is None:
        raise ConversionError("no engine here answers as ONNX says", hint="write without the check: --no-check")
    made, source = load(graph, reference.name), load(model, reference.name)
    found = SelfCheck()
    default = {item.name: item.dims for item in graph.inputs}
    given = dict(inputs) if inputs else random_inputs(source, default)
    if set(given) != set(default):
        raise RequestError("inputs differ from the network's", expected=", ".join(default), found=", ".join(given))
    found.tried.append(_run(made, source, graph.outputs, given, places, tolerance))
    larger = _larger(source, default)
    if larger == default:
        return found
    try:
        other = random_inputs(source, larger, seed=1)
        source.run(other, outputs=graph.outputs)
    except TnnError:
        found.untried = f"the ONNX network does not take {_text(larger)}"
        return found
    try:
        found.tried.append(_run(made, source, graph.outputs, other, places, tolerance))
    except ConversionError:
        raise
    except TnnError as error:
        found.untried = f"the converted network does not take {_text(larger)}: {error.problem}"
    return found


def _run(
    made: Model, source: Model, outputs: Sequence[str], inputs: Arrays, places: Mapping[str, str], tolerance: float
) -> Tried:
    narrow = {name: narrowed(np.asarray(array)) for name, array in inputs.items()}
    mine, theirs = made.run(narrow, outputs=outputs), source.run(dict(inputs), outputs=outputs)
    largest = 0.0
    for name in outputs:
        wanted = narrowed(theirs[name])
        if mine[name].shape != wanted.shape:
            _name_first(made, source, narrow, inputs, places, tolerance, name)
        found = deviation(mine[name], wanted)
        if found.relative > tolerance and found.max_abs > ROUNDING:
            _name_first(made, source, narrow, inputs, places, tolerance, name)
        if found.max_abs > ROUNDING:
            largest = max(largest, found.relative)
    return Tried({name: array.shape for name, array in inputs.items()}, largest)


def _name_first(
    made: Model,
    source: Model,
    narrow: Arrays,
    inputs: Arrays,
    places: Mapping[str, str],
    tolerance: float,
    output: str,
) -> None:
    """Raises ConversionError for the first layer whose blob differs."""
    mine = run_everything(made, narrow)
    common = [name for name in source.blobs() if name in mine]
    theirs = {name: narrowed(array) for name, array in source.run(dict(inputs), outputs=common).items()}
    blobs = differences(made.network.layers(), mine, theirs, names=("TNN", "ONNX"), tolerance=tolerance).blobs
    found = next((blob for blob in blobs if not blob.equal and not blob.max_abs <= ROUNDING), None)
    if found is None:
        raise ConversionError(f"output `{output}` differs", hint="the values before it agree")
    raise ConversionError(
        f"the converted network differs first at `{found.blob}`, {places.get(found.layer, found.layer)}",
        expected=found.problem or f"{found.reference:.7g} at {list(found.worst)}, as ONNX Runtime computes",
        found=f"{found.value:.7g} by layer `{found.layer}` ({found.type})",
    )


def _larger(source: Model, default: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The default shapes with every free size doubled, which most networks take."""
    free = {spec.name: spec.shape for spec in source.inputs}
    return {
        name: tuple(2 * size if dim is None else size for size, dim in zip(dims, free.get(name, dims), strict=True))
        for name, dims in default.items()
    }


def _text(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {list(dims)}" for name, dims in shapes.items())
