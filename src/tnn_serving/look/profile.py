"""Where the time of a network goes, in the names of its layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Unpack

from tnn_serving.engines import NodeTime
from tnn_serving.look.compare import random_inputs
from tnn_serving.look.defaults import PROFILE_RUNS
from tnn_serving.model import Model
from tnn_serving.network.formats import open_network
from tnn_serving.network.views import LayerView
from tnn_serving.prepare.load import LoadOptions, load

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, or, without an index, what the engine adds (changes of layout, for one).

    Attributes:
        time_ms: a mean inference's.
        share: of all layers together.
        kernels: what the engine ran for it; none for a layer that costs nothing, since the engine merged it into
            another one or computed it when it compiled.
        merged_into: the layer in whose time this one is contained, if the engine tells.
    """

    index: int | None
    layer: str
    type: str
    time_ms: float
    share: float
    kernels: list[str]
    merged_into: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A network's time, layer by layer.

    Attributes:
        shapes: of the inputs.
        runs: inferences that were averaged.
        wall_ms: median time of one inference from outside, measured without profiling.
        total_ms: sum over the layers.
        layers: in the order of the network; what belongs to none of them follows.
    """

    source: str
    engine: str
    shapes: dict[str, list[int]]
    runs: int
    wall_ms: float
    total_ms: float
    layers: list[LayerTime]


def profile(
    source: Source,
    engine: str = "auto",
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    runs: int = PROFILE_RUNS,
    **options: Unpack[LoadOptions],
) -> Profile:
    """Measures every layer of a network.

    Args:
        source, engine, options: see :func:`tnn_serving.load`.
        inputs: an array for each input; random ones of ``shapes`` (the network's own where none are given) if left out.
        seed: of the random inputs.
        runs: inferences to average.

    Raises:
        What :func:`tnn_serving.load` raises, and:
        RequestError, ShapeError: the inputs do not fit.
        EngineError: the engine fails.
    """
    network = open_network(source)
    # Profiling takes time itself, so what an inference takes is measured without.
    model = load(network, engine, **options)
    feeds = inputs if inputs is not None else random_inputs(model, shapes or {}, seed=seed)
    wall_ms = _wall_ms(model, feeds, runs)
    measuring: LoadOptions = {**options, "profile": True}
    model = load(network, engine, **measuring)
    layers = by_layer(network.layers(), model.profile(feeds, runs))
    return Profile(
        source=network.source,
        engine=model.engine,
        shapes={name: list(array.shape) for name, array in feeds.items()},
        runs=runs,
        wall_ms=wall_ms,
        total_ms=sum(layer.time_ms for layer in layers),
        layers=layers,
    )


def _wall_ms(model: Model, inputs: Mapping[str, np.ndarray], runs: int) -> float:
    model.run(inputs)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        model.run(inputs)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def by_layer(layers: Sequence[LayerView], nodes: Sequence[NodeTime]) -> list[LayerTime]:
    """The time of an engine's nodes summed for each layer.

    A node that computes several layers counts for the main one, whose kernel it is; the others are merged into that.
    """
    names = _Names(layers)
    times_ms = [0.0] * len(layers)
    kernels: list[list[str]] = [[] for _ in layers]
    merged: dict[int, str] = {}
    others: dict[str, float] = {}
    for node in nodes:
        found = list(dict.fromkeys(k for k in map(names.layer, node.origins) if k is not None))
        if not found:
            kind = node.kernel.split(" ", 1)[0]
            if node.seconds:
                others[kind] = others.get(kind, 0.0) + node.seconds * 1e3
            continue
        main, *rest = found
        if node.seconds:
            times_ms[main] += node.seconds * 1e3
            if node.kernel not in kernels[main]:
                kernels[main].append(node.kernel)
            merged.update(dict.fromkeys(rest, layers[main].name))
    total_ms = sum(times_ms) + sum(others.values())
    rows = [
        LayerTime(
            index,
            layer.name,
            layer.type,
            times_ms[index],
            times_ms[index] / total_ms if total_ms else 0.0,
            kernels[index],
            None if kernels[index] else merged.get(index),
        )
        for index, layer in enumerate(layers)
    ]
    return rows + [
        LayerTime(None, "", kind, ms, ms / total_ms if total_ms else 0.0, [kind]) for kind, ms in others.items()
    ]


class _Names:
    """Finds the layer that a name in an engine belongs to: a blob, the layer itself, or what is named ``layer/...``."""

    def __init__(self, layers: Sequence[LayerView]) -> None:
        self._blobs = {blob: index for index, layer in enumerate(layers) for blob in layer.outputs}
        self._layers = {layer.name: index for index, layer in enumerate(layers)}

    def layer(self, name: str) -> int | None:
        """Index of the layer; the longest name wins, since names of layers may contain slashes."""
        if name in self._blobs:
            return self._blobs[name]
        parts = name.split("/")
        for count in range(len(parts), 0, -1):
            index = self._layers.get("/".join(parts[:count]))
            if index is not None:
                return index
        return None
