"""Building ONNX: what is known of each value, what is refused on the spot, and what the graph computes in the end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as rt
import pytest

from tnn_serving.emit.builder import LAYER_KEY, Builder, Value
from tnn_serving.emit.inference import COMPUTED_LIMIT, IR_VERSION, OPSET
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import LimitError, ShapeError, WeightsError
from tnn_serving.tensor import DataType, Tensor

FLOAT, INT64 = np.dtype(np.float32), np.dtype(np.int64)


@pytest.fixture
def g() -> Builder:
    return Builder()


def picture(g: Builder, *dims: int, name: str = "x", dtype: Any = FLOAT) -> Value:
    """An input whose first axis is free, the others fixed."""
    return g.input(name, np.dtype(dtype), dims, ("n", *dims[1:]))


def run(g: Builder, feeds: dict[str, np.ndarray], *outputs: Value, inputs: Sequence[Value]) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    graph = ir.Graph(
        [value.ir for value in inputs],
        [value.ir for value in outputs],
        nodes=g.nodes,
        initializers=list(g.initializers.values()),
        opset_imports={"": OPSET},
        name="test",
    )
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=IR_VERSION))
    session = rt.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: list[np.ndarray] = session.run(None, feeds)
    return made


# ---- inputs ----


def test_an_input_has_default_dims_and_those_that_last(g: Builder) -> None:
    x = picture(g, 2, 3, 8)
    assert (x.dtype, x.dims, x.known, x.rank) == (FLOAT, (2, 3, 8), (None, 3, 8), 3)
    assert (x.sample, x.constant) == (None, False)
    assert (x.dim(-1), x.axis(-1)) == (8, 2)


def test_a_scalar_has_no_axes(g: Builder) -> None:
    with pytest.raises(ShapeError, match="axis is out of range"):
        g.input("x", FLOAT, (), ()).axis(0)


@pytest.mark.parametrize("axis", [-4, 3])
def test_an_axis_that_is_not_there_is_refused(g: Builder, axis: int) -> None:
    with pytest.raises(ShapeError, match="axis is out of range") as raised:
        picture(g, 2, 3, 8).axis(axis)
    assert (raised.value.expected, raised.value.found) == ("-3 to 2", axis)


def test_an_input_that_is_too_large_is_named() -> None:
    with pytest.raises(LimitError, match="input `x`"):
        picture(Builder(Limits(memory_bytes=1023)), 1, 256)
    assert picture(Builder(Limits(memory_bytes=1024)), 1, 256).dims == (1, 256)


# ---- constants ----


@pytest.mark.parametrize(
    ("source", "dtype", "wanted"),
    [
        (1.5, None, np.float32),
        ([1, 2], None, np.int64),
        (np.float64([1, 2]), None, np.float32),
        (np.int8([1, 2]), None, np.int8),
        ([1, 2], np.int8, np.int8),
        (Tensor.of(np.float16([1, 2])), None, np.float32),
        (Tensor(DataType.BFP16, (1,), memoryview(b"\x80\x3f")), None, np.float32),
        (Tensor.of(np.int32([1, 2])), None, np.int32),
    ],
    ids=["number", "integers", "doubles", "bytes", "integers as bytes", "half", "bfp16", "stored integers"],
)
def test_element_types_of_constants(g: Builder, source: Any, dtype: Any, wanted: Any) -> None:
    made = g.const(source, dtype)
    assert made.dtype == wanted
    assert made.constant
    assert made.fixed().dtype == wanted


def test_a_constant_keeps_its_stored_shape(g: Builder) -> None:
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(g.const(Tensor.of(stored)).fixed(), stored)
    assert g.const(Tensor.of(stored), dims=(3, 2, 1)).dims == (3, 2, 1)


def test_weights_of_another_size_are_refused(g: Builder) -> None:
    with pytest.raises(WeightsError, match="weights do not fit") as raised:
        g.const(np.zeros(7, np.float32), dims=(2, 3))
    assert (raised.value.expected, raised.value.found) == ("6 values (2 x 3)", "7 values")


def test_small_constants_are_stored_once(g: Builder) -> None:
    g.scope = "first"
    one = g.const([1, 2, 3])
    g.scope = "second"
    assert g.const([1, 2, 3]) is one
    assert g.const(np.int32([1, 2, 3])) is not one
    assert g.const([[1, 2, 3]]) is not one
    assert g.const([1, 2, 3], name="named") is not one
    large = np.zeros(65, np.float32)
    assert g.const(large) is not g.const(large)
    assert [*g.initializers] == [
        "first/const", "second/const", "second/const_1", "named", "second/const_2", "second/const_3"
    ]  # fmt: skip


def test_what_is_made_up_from_parameters_has_a_limit(g: Builder) -> None:
    g.check_made(COMPUTED_LIMIT)
    with pytest.raises(LimitError, match="a parameter is too large"):
        g.check_made(COMPUTED_LIMIT + 1)


# ---- names ----


def test_nodes_are_named_after_their_layer_and_know_it(g: Builder) -> None:
    x = picture(g, 1, 4)
    g.scope = "layer"
    first, second = g.op("Relu", x), g.op("Relu", x)
    g.scope = ""
    third = g.op("Relu", x)
    assert [node.name for node in g.nodes] == ["layer/Relu", "layer/Relu_1", "Relu"]
    assert [value.ir.name for value in (first, second, third)] == ["layer/Relu_out", "layer/Relu_1_out", "Relu_out"]
    assert [node.metadata_props.get(LAYER_KEY) for node in g.nodes] == ["layer", "layer", None]


def test_claimed_names_are_not_given_to_anything_else(g: Builder) -> None:
    g.claim("Relu")
    g.claim("Relu_1")
    g.op("Relu", picture(g, 1, 4, name="const"))
    assert g.nodes[0].name not in ("Relu", "Relu_1")
    assert g.const(1.0).ir.name == "const_1"


# ---- operators ----


def test_outputs_know_type_and_dims(g: Builder) -> None:
    x = picture(g, 2, 3, 8)
    y = g.op("Transpose", x, perm=[2, 0, 1])
    assert (y.dtype, y.dims, y.known) == (FLOAT, (8, 2, 3), (8, None, 3))
    assert g.op("Equal", x, x).dtype == np.bool_


def test_several_outputs_come_as_a_list(g: Builder) -> None:
    values, places = g.op("TopK", picture(g, 2, 9), g.ints(3), outputs=2, axis=-1)
    assert [(v.dims, v.dtype) for v in (values, places)] == [((2, 3), FLOAT), ((2, 3), INT64)]
    (only,) = g.op("Split", picture(g, 2, 9, name="z"), outputs=1, axis=1, num_outputs=1)
    assert only.dims == (2, 9)


def test_what_is_left_out_is_not_written(g: Builder) -> None:
    x = picture(g, 2, 9)
    g.op("Clip", x, None, g.const(1.0))
    g.op("Clip", x, g.const(0.0), None)
    g.op("Softmax", x, axis=None)
    assert [len(node.inputs) for node in g.nodes] == [3, 2, 1]
    assert g.nodes[0].inputs[1] is None
    assert not g.nodes[2].attributes


def test_inputs_that_do_not_fit_are_refused_with_their_shapes(g: Builder) -> None:
    with pytest.raises(ShapeError, match="inputs do not fit ONNX MatMul") as raised:
        g.op("MatMul", picture(g, 2, 3), picture(g, 4, 5, name="z"))
    assert raised.value.found == "float32[2, 3], float32[4, 5]"
    assert not g.nodes


def test_nothing_is_added_when_the_time_is_over() -> None:
    g = Builder(Limits(deadline_s=time.monotonic() - 1))
    with pytest.raises(LimitError, match="loading takes too long"):
        g.op("Relu", picture(g, 1, 4))


@pytest.mark.parametrize(
    ("dims", "attributes", "fits"),
    [
        ((1, 2, 4, 4), {}, True),
        ((1, 2, 4, 2), {}, False),
        ((1, 2, 4, 2), {"pads": [0, 0, 0, 1]}, True),
        ((1, 2, 4, 4), {"dilations": [1, 2]}, False),
        ((1, 2, 4, 5), {"dilations": [1, 2]}, True),
        ((1, 2, 1, 1), {"auto_pad": "SAME_UPPER"}, True),
    ],
)
@pytest.mark.parametrize("operator", ["Conv", "MaxPool"])
def test_a_window_must_find_a_place(
    g: Builder, operator: str, dims: tuple[int, ...], attributes: dict[str, Any], fits: bool
) -> None:
    x = picture(g, *dims)
    operands = [g.const(np.zeros((2, 2, 3, 3), np.float32))] if operator == "Conv" else []
    kernel = {} if operator == "Conv" else {"kernel_shape": [3, 3]}
    if fits:
        assert g.op(operator, x, *operands, **kernel, **attributes).rank == 4
    else:
        with pytest.raises(ShapeError, match="the window does not fit into the input"):
            g.op(operator, x, *operands, **kernel, **attributes)


def test_a_literal_shape_must_hold_all_elements(g: Builder) -> None:
    x = picture(g, 2, 3, 4)
    assert g.reshape(x, 0, -1).dims == (2, 12)
    with pytest.raises(ShapeError, match="elements do not fit the new shape"):
        g.reshape(x, 5, 5)


def test_outputs_beyond_the_limit_are_refused() -> None:
    g = Builder(Limits(memory_bytes=4000))
    x = picture(g, 1, 100)
    with pytest.raises(LimitError, match="a tensor is too large"):
        g.op("Tile", x, g.ints(1, 11))
    assert g.op("Tile", x, g.ints(1, 10)).dims == (1, 1000)


# ---- arithmetic of shapes ----


def test_shapes_are_followed_at_the_default_sizes(g: Builder) -> None:
    x = picture(g, 2, 3, 8)
    half = g.op("Div", g.size(x, 0), g.ints(2))
    assert (half.sample, half.constant) == (np.array([1]), False)
    with pytest.raises(ShapeError, match="must be a constant"):
        half.fixed()
    y = g.op("Reshape", x, g.op("Concat", half, g.ints(2, -1), axis=0))
    assert y.dims == (1, 2, 24)
    assert y.known == (None, None, None)


def test_arithmetic_of_constants_is_constant(g: Builder) -> None:
    made = g.op("Add", g.ints(1, 2), g.ints(3))
    np.testing.assert_array_equal(made.fixed(), [4, 5])


def test_a_size_is_read_only_where_it_may_change(g: Builder) -> None:
    x = picture(g, 2, 3)
    assert g.size(x, 1).constant
    assert not g.nodes
    size = g.size(x, -2)
    assert [node.op_type for node in g.nodes] == ["Shape", "Gather"]
    (got,) = run(g, {"x": np.zeros((5, 3), np.float32)}, size, inputs=[x])
    np.testing.assert_array_equal(got, [5])


def test_a_size_that_is_written_down_is_listed(g: Builder) -> None:
    x = picture(g, 2, 3)
    assert g.fix(x, -2) == 2
    assert g.fixed == [("x", 0, 2)]


def test_sizes_that_depend_on_data_are_not_known(g: Builder) -> None:
    found = g.op("NonZero", picture(g, 2, 3))
    assert found.dims == (2, None)
    for ask in (found.dim, lambda axis: g.fix(found, axis)):
        with pytest.raises(ShapeError, match="depends on data"):
            ask(1)


def test_values_that_decide_sizes_are_noted(g: Builder) -> None:
    count = g.input("count", INT64, (1,), (1,))
    g.op("Expand", g.const(1.0), g.op("Mul", count, g.ints(2)))
    assert [value.name for value in g.sizing] == ["Mul_out"]
    known = Builder()
    known.op("Expand", known.const(1.0), known.input("count", INT64, (1,), (1,), np.array([3])))
    assert not known.sizing


# ---- short words ----


def test_casts_that_undo_each_other_are_left_out(g: Builder) -> None:
    x = picture(g, 2, 3)
    assert g.cast(x, np.float32) is x
    wide = g.shape(x)
    narrow = g.cast(wide, np.int32)
    back = g.cast(narrow, np.int64)
    assert back.ir is wide.ir
    assert back.dtype == np.int64
    assert g.cast(g.cast(x, np.int32), np.int64).ir.producer() is g.nodes[-1]  # no int64 to go back to
    assert [node.op_type for node in g.nodes] == ["Shape", "Cast", "Cast", "Cast"]


@pytest.mark.parametrize(("axis", "dims"), [(1, (3, 1, 1)), (-1, (8,)), (0, (2, 1, 1, 1))])
def test_weights_broadcast_along_an_axis(g: Builder, axis: int, dims: tuple[int, ...]) -> None:
    x = picture(g, 2, 3, 4, 8)
    assert g.per_channel(np.zeros(max(dims), np.float32), x, axis=axis).dims == dims
    assert g.per_channel(Tensor.of(np.zeros(1, np.float32)), x, axis=axis).dims == ()
    with pytest.raises(WeightsError, match="weights do not fit"):
        g.per_channel(np.zeros(5, np.float32), x, axis=axis)


# ---- memory ----


def test_memory_is_that_of_the_values_alive_at_one_time(g: Builder) -> None:
    x = picture(g, 1, 1000)
    weights = g.const(np.zeros((1000, 10), np.float32))
    g.const(np.zeros(100, np.float32))  # read by no operator
    a = g.op("Relu", x)
    b = g.op("Sigmoid", a)
    c = g.op("Add", a, b)
    g.op("MatMul", c, weights)
    each = 4 * 1000
    # The input throughout, and a, b and c while the sum is made.
    assert g.memory() == (4 * math.prod(weights.dims), each + 3 * each)
