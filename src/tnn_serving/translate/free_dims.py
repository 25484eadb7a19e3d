"""Which dims of a network's inputs the caller may choose: those that no layer refuses at another size.

The network is translated once with the dims free that usually are, and walked once more with all of these changed. Only
where a layer refuses that are the dims tried one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ShapeError, TnnError, UnsupportedLayer
from tnn_serving.graph import Graph, Input
from tnn_serving.translate.graph import Translation, check_shapes, translate

Shape = tuple[int, ...]
Axes = dict[str, tuple[bool, ...]]

CHANNELS = 1
"""The axis that weights usually fix."""

FACTORS = (2, 2, 3, 5)
"""Factors of the axes that are changed together: two that must be equal to each other do not stay so."""

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class FreeDims:
    """The free dims of each input, and the translation at the default shapes that declares them by name."""

    axes: Axes
    translation: Translation


def free_dims(graph: Graph, given: Sequence[str] = (), *, limits: Limits = UNLIMITED) -> FreeDims:
    """Translates a network and finds the dims that the caller may choose.

    A dim that is not free with the others is tried alone, then together with the same axis of the inputs that did not
    take it alone, then with that of all: a batch that several inputs share; some take more rows than the others, but
    not fewer. What is tried is never run, so of ``limits`` only the time counts there.

    Args:
        graph: the network.
        given: inputs with a stored constant that the caller feeds.
        limits: of memory at the default shapes, and of time.

    Raises:
        UnsupportedLayer, ShapeError, WeightsError, LimitError: as :func:`~tnn_serving.translate.graph.translate`.
    """
    fed = [item for item in graph.inputs if item.name not in graph.constants or item.name in given]
    likely: Axes = {item.name: tuple(axis != CHANNELS for axis in range(len(item.dims))) for item in fed}
    try:
        translation = translate(graph, given=given, symbolic=likely, limits=limits)
    except (ShapeError, UnsupportedLayer):  # a layer may need to know a dim that is not free after all
        likely = {item.name: (False,) * len(item.dims) for item in fed}
        translation = translate(graph, given=given, limits=limits)
    trial = _Trial(graph, given, replace(limits, memory_bytes=math.inf), translation)
    enlarged = {item.name: _enlarged(item.dims, likely[item.name]) for item in fed}
    if any(map(any, likely.values())) and trial.takes(enlarged, likely):
        free = {name: list(axes) for name, axes in likely.items()}
        untried = [(item, CHANNELS) for item in fed if len(item.dims) > CHANNELS]
    else:
        free = {item.name: [False] * len(item.dims) for item in fed}
        untried = [(item, axis) for item in fed for axis in range(len(item.dims))]
    for item, axis in untried:
        free[item.name][axis] = not trial.fixed_by_weights(item, axis) and any(
            trial.takes({item.name: _with(item.dims, axis, size)}) for size in _other_sizes(item.dims[axis])
        )
    for axis in range(max((len(item.dims) for item in fed), default=0)):
        for name in _free_together(trial, fed, free, axis):
            free[name][axis] = True
    found = {name: tuple(axes) for name, axes in free.items()}
    return FreeDims(
        found, translation if found == likely else translate(graph, given=given, symbolic=found, limits=limits)
    )


def _free_together(trial: _Trial, fed: Sequence[Input], free: Mapping[str, Sequence[bool]], axis: int) -> list[str]:
    """Inputs that do not take another size of an axis alone, but with others that change as well."""
    having = [item for item in fed if axis < len(item.dims)]
    stuck = [item for item in having if not free[item.name][axis]]
    size = stuck[0].dims[axis] if stuck else 0
    if any(item.dims[axis] != size for item in stuck):
        return []
    for together in (stuck, [item for item in having if item.dims[axis] == size]):
        if len(together) < 2 or any(trial.fixed_by_weights(item, axis) for item in together):
            continue
        if any(trial.takes({i.name: _with(i.dims, axis, n) for i in together}) for n in _other_sizes(size)):
            return [item.name for item in stuck]
    return []


class _Trial:
    """Asks a network about other shapes than its default ones."""

    def __init__(self, graph: Graph, given: Sequence[str], limits: Limits, translation: Translation) -> None:
        self._graph = graph
        self._given = given
        self._limits = limits
        self._translation = translation
        self._fixed: tuple[tuple[str, int, int], ...] | None = None

    def takes(self, shapes: Mapping[str, Shape], symbolic: Axes | None = None) -> bool:
        """No layer refuses these shapes, and the same sizes are written down as at the default ones."""
        try:
            if symbolic is not None:
                return self._at(shapes, symbolic) == self._translation.fixed
            if self._fixed is None:
                self._fixed = self._at({})
            return self._at(shapes) == self._fixed
        except TnnError:
            self._limits.check_time()
            return False

    def _at(self, shapes: Mapping[str, Shape], symbolic: Axes | None = None) -> tuple[tuple[str, int, int], ...]:
        return check_shapes(self._graph, shapes, given=self._given, symbolic=symbolic, limits=self._limits).fixed

    def fixed_by_weights(self, item: Input, axis: int) -> bool:
        """A convolution reads the input: its filters fix the channels."""
        if axis != CHANNELS:
            return False
        entry = next(value for value in self._translation.model.graph.inputs if value.name == item.name)
        return any(_is_filtered(node, index) for node, index in entry.uses())


def _is_filtered(node: ir.Node, index: int) -> bool:
    filters = node.inputs[1] if node.op_type in CONVOLUTIONS and index == 0 else None
    return filters is not None and filters.const_value is not None


def _enlarged(dims: Shape, axes: Sequence[bool]) -> Shape:
    """All free axes at another size; an empty one gets one element."""
    return tuple(
        (size * FACTORS[min(axis, len(FACTORS) - 1)] or 1) if free else size
        for axis, (size, free) in enumerate(zip(dims, axes, strict=True))
    )


def _other_sizes(size: int) -> tuple[int, ...]:
    """Sizes to try: twice (batches, and pyramids with strides), one more (sequences), half (int8 networks that hold a
    scale for each of the default size's channels)."""
    if not size:
        return (1,)
    return (2 * size, size + 1, size // 2) if size > 1 else (2,)


def _with(dims: Shape, axis: int, size: int) -> Shape:
    return (*dims[:axis], size, *dims[axis + 1 :])
