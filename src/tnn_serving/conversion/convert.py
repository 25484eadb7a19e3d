"""The whole way from an ONNX model to a pair of TNN files that is known to answer the same."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from tnn_serving.conversion.check import SelfCheck, self_check
from tnn_serving.conversion.compress import with_fused_activations, with_half_weights, with_int8_weights
from tnn_serving.conversion.network import Walk
from tnn_serving.conversion.origin import Origin
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines.base import Arrays
from tnn_serving.errors import ConfigError, ConversionError, located
from tnn_serving.formats.onnx import nodes_within, read_onnx
from tnn_serving.formats.onnx.file import OnnxSource
from tnn_serving.formats.tnn.files import MODEL_NAME, PROTO_NAME, read_model, write_model
from tnn_serving.graph import Graph
from tnn_serving.translate.graph import translate

OnStep = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of an ONNX network.

    Attributes:
        operators: how many nodes of each ONNX operator it was made from.
        layers: how many layers of each TNN type it has.
        notes: what is not as in ONNX, such as types that TNN does not have.
        check: how far it was tried; ``None`` if it was not.
        loss: the largest difference of an output that smaller weights make, as a share of its largest value.
        proto, model: the files, if they were written.
    """

    operators: dict[str, int]
    layers: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    check: SelfCheck | None = None
    loss: float | None = None
    proto: Path | None = None
    model: Path | None = None


@dataclass(slots=True, kw_only=True)
class Conversion(Account):
    """A converted network, and the account of it.

    Attributes:
        graph: the network.
    """

    graph: Graph


def convert(
    source: OnnxSource,
    output: str | os.PathLike[str] | None = None,
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    optimize: bool = False,
    fp16: bool = False,
    dynamic_range: bool = False,
    checked: bool = True,
    inputs: Arrays | None = None,
    on_step: OnStep = lambda text: None,
    limits: Limits = UNLIMITED,
) -> Conversion:
    """Converts an ONNX model to TNN, and tries whether it answers the same.

    Names of values are kept as blob names; a layer has the name of its first output.

    Args:
        source: a path, the bytes of a file, or an ``onnx.ModelProto``.
        output: the folder that gets ``proto.tnnproto`` and ``model.tnnmodel``; none is written if left out.
        dims: default dims by input, where the model leaves them open; what is free in ONNX stays free.
        outputs: values to end the network at, if not its outputs.
        optimize: put activations into the convolutions before them, as TNN does when it loads.
        fp16: store the weights of products in half.
        dynamic_range: store them as int8 codes with a scale.
        checked: run both networks, on ``inputs`` or random ones, and at a second size where sizes are free.
        inputs: by name, for the check.
        on_step: called with a description of each step.
        limits: of memory.

    Raises:
        FormatError, LimitError: the model cannot be read.
        UnsupportedLayer: TNN has no form for a node; the message names it.
        ShapeError: dims are missing or do not fit.
        ConversionError: the converted network answers otherwise; the message names the first node that does.
        ConfigError: the folder cannot be written.
    """
    if fp16 and dynamic_range:
        raise ConfigError("weights are stored in half or as int8", hint="leave one of the two out")
    on_step("reading")
    model = read_onnx(source, limits)
    names = _writable(model)
    dims = {names.get(name, name): sizes for name, sizes in (dims or {}).items()}
    outputs = [names.get(name, name) for name in outputs]
    inputs = None if inputs is None else {names.get(name, name): array for name, array in inputs.items()}
    _free(model, dims)
    label = os.fspath(source) if isinstance(source, str | os.PathLike) else model.graph.name
    with located(label):
        walk = Walk(Origin(model, dims, outputs))
        on_step(f"converting {len(model.graph.node)} nodes")
        graph = walk.run()
    graph.source = label
    _declare_ranks(model, walk)
    _check_shapes(walk, graph)
    made = Conversion(
        graph=graph,
        operators=dict(Counter(node.op_type for node in model.graph.node)),
        notes=[*walk.notes(), *(f"`{old}` is `{new}`" for old, new in names.items())],
    )
    if optimize:
        with_fused_activations(graph)
    if checked:
        on_step("running both networks")
        with located(label):
            made.check = self_check(_as_read(graph), model, walk.places, inputs)
    if fp16 or dynamic_range:
        (with_half_weights if fp16 else with_int8_weights)(graph)
        if checked:
            with located(label):
                made.loss = self_check(_as_read(graph), model, walk.places, inputs, tolerance=np.inf).tried[0].largest
    made.layers = dict(Counter(layer.type for layer in graph.layers))
    if output is not None:
        on_step("writing")
        made.proto, made.model = _write(graph, Path(output))
    return made


SEPARATORS = re.compile(r"[\s,:\"]")
"""What separates words, lines and inputs in a .tnnproto."""


def _writable(model: onnx.ModelProto) -> dict[str, str]:
    """Gives values new names where a .tnnproto could not hold theirs; returns these by the old ones."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {i.name for i in graph.input}
    names: dict[str, str] = {}
    for name in sorted(filter(SEPARATORS.search, taken)):
        new = SEPARATORS.sub("_", name)
        while new in taken:
            new += "_"
        names[name] = new
        taken.add(new)
    for node in nodes_within(graph) if names else ():
        for place in (node.input, node.output):
            renamed = [names.get(name, name) for name in place]
            del place[:]
            place.extend(renamed)
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names.get(item.name, item.name)
    if names:
        del graph.value_info[:]
    return names


def _free(model: onnx.ModelProto, dims: Mapping[str, Sequence[int]]) -> None:
    """Lets a network take other dims than it says, where the caller gives some."""
    for item in model.graph.input:
        shape = item.type.tensor_type.shape.dim
        wanted = dims.get(item.name, ())
        changed = [dim for dim, size in zip(shape, wanted, strict=False) if dim.dim_value not in (0, size)]
        for place, dim in enumerate(changed):
            dim.dim_param = f"{item.name}_{place}"
        if changed:
            del model.graph.value_info[:]


def _declare_ranks(model: onnx.ModelProto, walk: Walk) -> None:
    """Says nothing of outputs but their ranks: exporters state wrong shapes."""
    ranks = {name: len(dims) for name, dims in walk.dims.items()}
    for output in model.graph.output:
        if output.name in ranks:
            shape = output.type.tensor_type.shape
            del shape.dim[:]
            for _ in range(ranks[output.name]):
                shape.dim.add()


def _as_read(graph: Graph) -> Graph:
    """What a reader of the files gets."""
    return read_model(*write_model(graph))


def _check_shapes(walk: Walk, graph: Graph) -> None:
    """Raises ConversionError if a layer gives other dims than its node, UnsupportedLayer if it cannot run."""
    for name, blob in translate(_as_read(graph)).blobs.items():
        wanted = walk.dims.get(name)
        if wanted is None or len(wanted) == len(blob.dims):
            pairs = zip(wanted or (), blob.dims, strict=False)
            if all(None in pair or pair[0] == pair[1] for pair in pairs):
                continue
        raise ConversionError(
            f"{walk.places.get(name, name)}: TNN gives `{name}` other dims",
            expected=list(wanted or ()),
            found=blob.dims,
        )


def _write(graph: Graph, folder: Path) -> tuple[Path, Path]:
    """Writes both files beside their place and moves them there when they are whole."""
    places = folder / PROTO_NAME, folder / MODEL_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".convert-", dir=folder) as scratch:
            beside = Path(scratch, PROTO_NAME), Path(scratch, MODEL_NAME)
            for path, data in zip(beside, write_model(graph), strict=True):
                path.write_bytes(data)
            for path, place in zip(beside, places, strict=True):
                os.replace(path, place)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written", found=error.strerror) from error
    return places
