"""Every declared layer, with parameters and weights made from its declaration, survives writing and reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.tnn.compare import differences
from tnn_serving.formats.tnn import read_model, write_model
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer
from tnn_serving.layers.parameters import HW, CBool, Int64, Parameter
from tnn_serving.layers.registry import declared
from tnn_serving.layers.weights import Stored
from tnn_serving.tensor import DataType, Tensor

TYPES = sorted(declared())
WEIGHTED = [name for name in TYPES if declared()[name].payload]

# What the packer's form does not keep: it turns an adaptive output size around, and repeats the output size.
NOT_STABLE = {"Pooling", "Pooling_nhwc", "Pooling_split_CC", "QuantizedPooling", "ROIPooling"}

SCALARS: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**31), 2**31 - 1),
    Int64: st.integers(-(2**63), 2**63 - 1).map(Int64),
    bool: st.booleans(),
    CBool: st.booleans().map(CBool),
    # As many digits as the text has: 6.
    float: st.floats(width=32, allow_nan=False).map(lambda value: float(np.float32(f"{value:g}"))),
    str: st.text("abcijk;->.", min_size=1, max_size=20),
}


def values(spec: Parameter) -> st.SearchStrategy[Any]:
    """Values that a parameter can have."""
    one = SCALARS[spec.kind]
    if spec.form == "group":
        assert spec.group is not None
        width = len(spec.group._fields)  # type: ignore[attr-defined]
        later = one.filter(lambda value: value != -1) if spec.spread else one
        return st.tuples(one, *[later] * (width - 1)).map(lambda members: spec.group(*members))  # type: ignore[misc]
    if spec.form == "counted":
        return st.lists(st.tuples(*[one] * spec.per), max_size=5).map(
            lambda rows: tuple(v for row in rows for v in row)
        )
    if spec.form == "rest":
        return st.lists(one, max_size=5).map(tuple)
    if spec.form == "pair":
        return st.none() | values(Parameter("", form="group", group=HW))
    return one


@st.composite
def layers(draw: st.DrawFn, kind: str) -> Layer:
    """A layer of that type with any parameters."""
    cls = declared()[kind]
    parameters = {spec.name: draw(values(spec)) for spec in cls.parameters}
    takes_all = any(spec.form in ("rest", "pair") for spec in cls.parameters)
    surplus = () if takes_all else tuple(draw(st.lists(st.sampled_from(["1", "x", "2.5"]), max_size=2)))
    return cls(type=kind, name="n", inputs=("x",), outputs=("y",), surplus=surplus, **parameters)


def written(layer: Layer, *, canonical: bool = False) -> tuple[bytes, bytes]:
    return write_model(Graph([Input("x", (1,), DataType.FLOAT)], ["y"], [layer]), canonical=canonical)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=15)
@given(data=st.data())
def test_tokens(kind: str, data: st.DataObject) -> None:
    layer = data.draw(layers(kind))
    graph = read_model(written(layer)[0])
    assert differences(graph, Graph([Input("x", (1,), DataType.FLOAT)], ["y"], [layer])) == []
    once = written(layer, canonical=True)[0]
    assert (write_model(read_model(once), canonical=True)[0] == once) or kind in NOT_STABLE


TENSORS = {
    "float": Tensor.of(np.float32([1, 2, 3, 4])),
    "half": Tensor.of(np.float16([[1, 2], [3, 4]])),
    "int8": Tensor.of(np.int8([1, 2, 3, 4]), dims=()),
    "version 1": Tensor.of(np.float32([1, 2, 3, 4]), version=0xFABC0002),
}


def filled(kind: str, tensor: Tensor) -> Layer:
    """A layer whose buffers are all ``tensor``, with scales where int8 ones need them."""
    cls = declared()[kind]
    made: dict[str, object] = {}
    for spec in cls.payload:
        if spec.form == "text":
            made[spec.name] = "text"
        elif spec.form in ("flag", "byte"):
            made[spec.name] = 1
        elif spec.form == "tensor" and spec.when_int8 is None:
            made[spec.name] = tensor
        elif tensor.dtype is DataType.INT8:
            made[spec.name] = TENSORS["int8"] if spec.form == "beside" else TENSORS["float"]
    needed = {spec.name: _example(spec) for spec in cls.parameters}
    return cls(type=kind, name="n", inputs=("x",), outputs=("y",), **needed, **made)


def _example(spec: Parameter) -> object:
    if spec.form == "group":
        assert spec.group is not None
        return spec.group(*[1] * len(spec.group._fields))  # type: ignore[attr-defined]
    if spec.form in ("counted", "rest"):
        return (spec.kind(1),) * spec.per
    return None if spec.form == "pair" else spec.kind(1)


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights(kind: str, tensor: str) -> None:
    layer = filled(kind, TENSORS[tensor])
    files = written(layer)
    graph = read_model(*files)
    assert write_model(graph) == files
    again = graph.layers[0]
    for spec in layer.payload:
        want = getattr(layer, spec.name)
        got = getattr(again, spec.name)
        assert _content(got) == _content(want), spec.name


def _content(value: object) -> object:
    """A written tensor is of version 2; what had no dims has none then, as an empty list."""
    return (value.dtype, value.dims or (), bytes(value.data)) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("kind", WEIGHTED)
def test_layer_without_weights_has_no_entry(kind: str) -> None:
    layer = filled(kind, TENSORS["float"])
    for spec in layer.payload:
        setattr(layer, spec.name, None)
    assert len(written(layer)[1]) == 8


def test_every_flag_and_scale_names_a_field() -> None:
    for cls in declared().values():
        names = {spec.name for spec in cls.payload}
        parameters = {spec.name for spec in cls.parameters}
        for spec in cls.payload:
            assert _named(spec) <= names
            assert spec.parameter is None or spec.parameter in parameters


def _named(spec: Stored) -> set[str]:
    return {name for name in (spec.when, spec.when_int8, spec.zero_points, spec.zeros_like) if name}
