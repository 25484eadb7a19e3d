"""Which ONNX operators keep the rows of a batch apart: what the walk says, and what ONNX Runtime then answers."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as rt
import pytest

from tnn_serving.translate.row_walk import rows_stay_apart

OPSETS = (17, 18, 21)

APART = [
    # elementwise, with something that is the same for all rows
    "x float[N,4] -> y float[N,4]: y = Relu(x)",
    "x float[N,4] -> y float[N,4]: c = Constant<value = float[4] {1, 2, 3, 4}>()  y = Mul(x, c)",
    "x float[N,4] -> y float[N,4]: c = Constant<value = float[1,4] {1, 2, 3, 4}>()  y = Mul(c, x)",
    "x float[N,4], z float[N,1] -> y float[N,4]: y = Sub(x, z)",
    "x float[N,1,4] -> y float[N,3,4]: c = Constant<value = float[3,1] {1, 2, 3}>()  y = Add(x, c)",
    "x float[N,4] -> y float[N,4]: s = Constant<value_float = 0.5>()  q = QuantizeLinear(x, s)"
    "  y = DequantizeLinear(q, s)",
    "x float[N,4] -> y float[N,4]: y, m = Dropout(x)",
    # along other axes
    "x float[N,4] -> y float[N,4]: y = Softmax(x)",
    "x float[N,4,3] -> y int64[N,3]: y = ArgMax<axis = 1, keepdims = 0>(x)",
    "x float[N,2,5] -> y float[N,2,5]: s = Constant<value = float[5] {1, 2, 3, 4, 5}>()  y = LayerNormalization(x, s)",
    "x float[N,4] -> y float[N,4]: a = Constant<value_int = 1>()  y = CumSum(x, a)",
    "x float[N,4] -> y float[N,2]: k = Constant<value_ints = [2]>()  y, i = TopK(x, k)",
    "x float[N,4] -> y float[N,8]: y = Concat<axis = 1>(x, x)",
    "x float[N,4] -> y float[N,1]: n = Constant<value_ints = [1, 3]>()  y, z = Split<axis = 1>(x, n)",
    "x float[N,4,3] -> y float[N,2,3]: s = Constant<value_ints = [1]>()  e = Constant<value_ints = [3]>()"
    "  y = Slice(x, s, e, s)",
    "x float[N,4] -> y float[N,2]: s = Constant<value_ints = [0, 0]>()"
    "  e = Constant<value_ints = [9223372036854775807, 2]>()  y = Slice(x, s, e)",
    "x float[N,2] -> y float[N,4]: p = Constant<value_ints = [0, 1, 0, 1]>()  y = Pad(x, p)",
    "x float[N,4] -> y float[N,8]: r = Constant<value_ints = [1, 2]>()  y = Tile(x, r)",
    "x float[N,1,4,4] -> y float[N,1,8,8]: e = Constant<value = float[0] {}>()"
    "  s = Constant<value = float[4] {1, 1, 2, 2}>()  y = Resize<mode = 'nearest'>(x, e, s)",
    "x float[N,3,3] -> y float[N,3,3]: y = Trilu(x)",
    # axis 0 is the batch by definition
    "x float[N,2,4,4] -> y float[N,1,3,3]: w = Constant<value = float[1,2,2,2] {1, 2, 3, 4, 5, 6, 7, 8}>()"
    "  y = Conv(x, w)",
    "x float[N,2,4,4] -> y float[N,2,2,2]: y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)",
    "x float[N,2,4] -> y float[N,2,1]: y = GlobalAveragePool(x)",
    "x float[N,2,4] -> y float[N,2,4]: s = Constant<value = float[2] {1, 2}>()  y = InstanceNormalization(x, s, s)",
    "x float[N,4,2,2] -> y float[N,1,4,4]: y = DepthToSpace<blocksize = 2>(x)",
    "x float[N,1,4,4], g float[N,2,2,2] -> y float[N,1,2,2]: y = GridSample<mode = 'nearest'>(x, g)",
    # moved and moved back
    "x float[N,4] -> y float[N,4]: t = Transpose(x)  y = Transpose(t)",
    "x float[N,2,3] -> y float[N,3]: t = Transpose<perm = [1, 0, 2]>(x)  a = Constant<value_ints = [1]>()"
    "  i = Constant<value_int = 1>()  y = Gather<axis = 0>(t, i)",
    "x float[N,2,3] -> y float[N,6]: s = Constant<value_ints = [-1, 3]>()  a = Reshape(x, s)  b = Relu(a)"
    "  t = Constant<value_ints = [-1, 6]>()  y = Reshape(b, t)",
    "x float[N,5,2] -> y float[N,5,2]: t = Transpose<perm = [1, 0, 2]>(x)  s = Constant<value_ints = [-1, 2]>()"
    "  a = Reshape(t, s)  b = Softmax(a)  r = Constant<value_ints = [5, -1, 2]>()  c = Reshape(b, r)"
    "  y = Transpose<perm = [1, 0, 2]>(c)",
    "x float[N,2,3] -> y float[N,6]: y = Flatten(x)",
    "x float[N,1,3] -> y float[N,3]: a = Constant<value_ints = [1]>()  y = Squeeze(x, a)",
    # the number of rows, carried as itself
    "x float[N,2,3] -> y float[N,6]: s = Shape(x)  z = Constant<value_ints = [0]>()  n = Gather(s, z)"
    "  m = Constant<value_ints = [-1]>()  t = Concat<axis = 0>(n, m)  y = Reshape(x, t)",
    "x float[N,3] -> y float[N,6]: s = Shape(x)  o = ConstantOfShape(s)  y = Concat<axis = 1>(x, o)",
    "x float[N,3] -> y float[N,4]: s = Shape<start = 0, end = 1>(x)  m = Constant<value_ints = [1]>()"
    "  t = Concat<axis = 0>(s, m)  c = Constant<value = float[1,1] {7}>()  k = Expand(c, t)"
    "  y = Concat<axis = 1>(k, x)",
    "x float[N,3] -> y float[N,3]: s = Shape(x)  z = Constant<value_ints = [0]>()  n = Gather(s, z)"
    "  o = Constant<value_ints = [1]>()  t = Constant<value_ints = [0]>()  y = Slice(x, z, n, t, o)",
    # products
    "x float[N,2] -> y float[N,3]: w = Constant<value = float[2,3] {1, 2, 3, 4, 5, 6}>()  y = Gemm(x, w)",
    "x float[N,2] -> y float[N]: w = Constant<value = float[2] {1, 2}>()  y = MatMul(x, w)",
    "x float[N,2,3], z float[N,3,2] -> y float[N,2,2]: y = MatMul(x, z)",
    "x float[N,2,3] -> y float[N,1,3]: w = Constant<value = float[1,2] {1, 2}>()  y = MatMul(w, x)",
    "x float[N,2] -> y float[N,1]: w = Constant<value = float[1,2] {1, 2}>()  t = Transpose(x)  m = MatMul(w, t)"
    "  y = Transpose(m)",
    "x float[N,2,3], z float[N,3,2] -> y float[N,2]: y = Einsum<equation = 'bij,bji->bi'>(x, z)",
    "x float[N,2,3] -> y float[N,3,2]: y = Einsum<equation = '...ij->...ji'>(x)",
    # by index
    "x int64[N,3] -> y float[N,3,2]: w = Constant<value = float[2,2] {1, 2, 3, 4}>()  y = Gather(w, x)",
    "x float[N,3], i int64[N,3] -> y float[N,3]: y = GatherElements<axis = 1>(x, i)",
    "x float[N,3], i int64[N,2,1] -> y float[N,2]: y = GatherND<batch_dims = 1>(x, i)",
    "x int64[N,3] -> y float[N,3,2]: d = Constant<value_int = 2>()  v = Constant<value = float[2] {0, 1}>()"
    "  y = OneHot(x, d, v)",
    # the batch of a recurrent layer is axis 1
    "x float[N,4,1] -> y float[N,4,1]: t = Transpose<perm = [1, 0, 2]>(x)"
    "  w = Constant<value = float[1,1,1] {0.5}>()  o, h = RNN<hidden_size = 1>(t, w, w)"
    "  u = Transpose<perm = [2, 0, 1, 3]>(o)  a = Constant<value_ints = [2]>()  y = Squeeze(u, a)",
]

MIXED = {
    "x float[N,4] -> y float[N,4]: y = Softmax<axis = 0>(x)": "node `0` (Softmax) works along axis 0, which holds",
    "x float[N,4] -> y float[1,4]: a = Constant<value_ints = [0]>()  y = ReduceSum(x, a)": "(ReduceSum) works along",
    "x float[N,4] -> y float[]: y = ReduceMax<keepdims = 0>(x)": "(ReduceMax) works along axis 0",
    "x float[N,4] -> y int64[4]: y = ArgMax<keepdims = 0>(x)": "(ArgMax) works along axis 0",
    "x float[N,4] -> y float[N,4]: a = Constant<value_int = 0>()  y = CumSum(x, a)": "(CumSum) works along axis 0",
    "x float[N,4] -> y float[1,4]: k = Constant<value_ints = [1]>()  y, i = TopK<axis = 0>(x, k)": "(TopK) works along",
    "x float[N,4] -> y float[M,4]: y = Concat<axis = 0>(x, x)": "(Concat) works along axis 0",
    "x float[N,4] -> y float[M,4]: c = Constant<value = float[1,4] {1, 2, 3, 4}>()  y = Concat<axis = 0>(c, x)":
        "(Concat) joins values that hold the rows differently",
    "x float[N,4] -> y float[4]: i = Constant<value_int = 0>()  y = Gather(x, i)": "(Gather) works along axis 0",
    "x float[N,4] -> y float[1,4]: z = Constant<value_ints = [0]>()  o = Constant<value_ints = [1]>()"
    "  y = Slice(x, z, o)": "(Slice) takes a literal range of the axis that holds the rows",
    "x float[N,4] -> y float[N,4]: z = Constant<value_ints = [-1]>()  e = Constant<value_ints = [-99]>()"
    "  a = Constant<value_ints = [0]>()  y = Slice(x, z, e, a, z)": "(Slice) takes a literal range",
    "x float[N,4] -> y float[M,4]: p = Constant<value_ints = [1, 0, 0, 0]>()  y = Pad(x, p)": "(Pad) adds elements",
    "x float[N,4] -> y float[4,N]: y = Transpose(x)": "node `0` (Transpose) puts the rows on axis 1 of output `y`",
    "x float[N,4] -> y float[M,2]: s = Constant<value_ints = [-1, 2]>()  y = Reshape(x, s)":
        "(Reshape) gives 2 rows of output `y` for each row",
    "x float[N,4] -> y float[1,4]: s = Constant<value_ints = [1, 4]>()  y = Reshape(x, s)":
        "(Reshape) has literal sizes for one number of rows: [1, 4]",
    "x float[N,4] -> y float[1]: s = Constant<value_ints = [1, -1]>()  r = Reshape(x, s)  y = ReduceSum(r)":
        "(ReduceSum) works along axis 1, which holds the rows; node `1` (Reshape) put them there",
    "x float[N,2,3] -> y float[N,6]: t = Transpose<perm = [1, 0, 2]>(x)  s = Constant<value_ints = [-1, 6]>()"
    "  y = Reshape(t, s)": "(Reshape) joins the rows with another axis, out of order",
    "x float[N,4] -> y float[N,4]: t = Transpose(x)  m = MatMul(x, t)  y = MatMul(m, x)":
        "multiplies each row with every",
    "x float[N,4] -> y float[N,N]: t = Transpose(x)  y = Gemm(x, t)": "(Gemm) multiplies each row with every other",
    "x float[N,2] -> y float[N,2]: c = Constant<value = float[2,2] {1, 2, 3, 4}>()  y = Gemm(x, c, c)":
        "(Gemm) adds something",
    "x float[N,4] -> y float[4,4]: y = Einsum<equation = 'bi,bj->ij'>(x, x)": "(Einsum) sums along the axis",
    "x float[N,4] -> y float[N,4]: c = Constant<value = float[2,4] {1, 2, 3, 4, 5, 6, 7, 8}>()  y = PRelu(x, c)":
        "of 2 rows",
    "x float[N,4] -> y float[N,4]: c = Constant<value = float[2,4] {1, 2, 3, 4, 5, 6, 7, 8}>()  y = Add(x, c)":
        "(Add) does not take",
    "x float[N,4] -> y int64[2,M]: y = NonZero(x)": "(NonZero) finds positions among all rows at once",
    "x float[N,4] -> y uint8[N,4]: y, s, z = DynamicQuantizeLinear(x)": "(DynamicQuantizeLinear) takes one scale from",
    "x float[N,4] -> y float[N,4]: s = Shape(x)  z = Constant<value_ints = [0]>()  n = Gather(s, z)"
    "  f = Cast<to = 1>(n)  y = Div(x, f)": "(Div) computes with the number of rows",
    "x float[N,4] -> y float[N]: s = Shape(x)  z = Constant<value_int = 0>()  n = Gather(s, z)"
    "  o = Constant<value_int = 1>()  r = Range(z, n, o)  y = Cast<to = 1>(r)": "output `y` depends on the number",
    "x float[N,4] -> y float[4]: y = Constant<value = float[4] {1, 2, 3, 4}>()": "output `y` is the same for all rows",
    "x float[N,1,1] -> y float[N,1,1]: w = Constant<value = float[1,1,1] {0.5}>()"
    "  o, y = RNN<hidden_size = 1>(x, w, w)":
        "(RNN) takes axis 1 for the batch and axis 0 for time, but the rows are on axis 0",
    "x float[N,1,4,4] -> i int64[N,1,2,2]: y, i = MaxPool<kernel_shape = [2, 2]>(x)":
        "(MaxPool) numbers the elements of all",
    "x float[N,2,4] -> y float[N,2,4]: t = Transpose<perm = [1, 0, 2]>(x)  u = LpNormalization<axis = 1>(t)"
    "  y = Transpose<perm = [1, 0, 2]>(u)": "node `0` (Transpose) put them there",
    "x float[N,4] -> y float[N,4]: r = RandomNormalLike(x)  y = Add(x, r)": "(RandomNormalLike) answers at random",
    "x float[N,4] -> y float[N,4]: y = other.domain.Odd(x)": "domain other.domain, whose meaning is not known",
}  # fmt: skip


def parsed(text: str, opset: int = 21) -> onnx.ModelProto:
    """A model from `inputs -> outputs: nodes`, its nodes named by their place."""
    ends, _, body = text.partition(": ")
    inputs, _, outputs = ends.partition(" -> ")

    def declared(values: str) -> str:
        return re.sub(r"(\w+) (\w+\[[^\]]*\])", r"\2 \1", values)

    nodes = body.replace("'", '"')
    imports = f'"": {opset}, "other.domain": 1'
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{imports}]> g ({declared(inputs)}) => ({declared(outputs)}) {{ {nodes} }}"
    )
    for index, node in enumerate(model.graph.node):
        node.name = str(index)
    return model


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim) for value in model.graph.input
    }


def verdict(model: onnx.ModelProto) -> str | None:
    obstacle = rows_stay_apart(ir.serde.deserialize_model(model), shapes(model))
    return None if obstacle is None else str(obstacle)


def answer(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = rt.SessionOptions()
    options.intra_op_num_threads = 1
    session = rt.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def fed(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    """Different numbers in each row; indices are 0 or 1."""
    random = np.random.default_rng(7)
    made = {}
    for value in model.graph.input:
        dims = (rows, *shapes(model)[value.name][1:])
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            made[value.name] = random.uniform(-1, 1, dims).astype(np.float32)
        else:
            made[value.name] = random.integers(0, 2, dims)
    return made


@pytest.mark.parametrize("text", APART)
def test_what_stays_apart_is_answered_row_by_row(text: str) -> None:
    model = parsed(text)
    assert verdict(model) is None
    together = fed(model, 4)
    whole = answer(model, together)
    for row in range(4):
        alone = answer(model, {name: array[row : row + 1] for name, array in together.items()})
        for output, part in zip(whole, alone, strict=True):
            np.testing.assert_allclose(output[row : row + 1], part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("text", "reason"), MIXED.items())
def test_what_mixes_rows_is_named(text: str, reason: str) -> None:
    told = verdict(parsed(text))
    assert told is not None
    assert reason in told


@pytest.mark.parametrize("opset", OPSETS)
def test_older_opsets_have_their_own_forms(opset: int) -> None:
    """Axes of a reduction are an attribute up to opset 17."""
    given = (
        "a = Constant<value_ints = [{}]>()  y = ReduceMean(x, a)" if opset >= 18 else "y = ReduceMean<axes = [{}]>(x)"
    )
    assert verdict(parsed("x float[N,4] -> y float[N,1]: " + given.format(1), opset)) is None
    assert "(ReduceMean)" in str(verdict(parsed("x float[N,4] -> y float[1,4]: " + given.format(0), opset)))


def test_a_graph_inside_an_operator_is_not_looked_into() -> None:
    model = parsed(
        "x float[N,4] -> y float[N,4]: t = Constant<value = bool[1] {1}>()  c = Squeeze(t)"
        "  y = If (c) <then_branch = a () => (float[N,4] p) { p = Relu(x) },"
        " else_branch = b () => (float[N,4] q) { q = Neg(x) }>"
    )
    assert "(If) runs a graph of its own" in str(verdict(model))


def test_what_no_output_needs_does_not_count() -> None:
    text = "x float[N,4] -> y float[N,4]: a = Constant<value_ints = [0]>()  s = ReduceSum(x, a)  y = Relu(x)"
    assert verdict(parsed(text)) is None


def test_the_shape_of_a_mixed_value_is_only_a_shape() -> None:
    text = (
        "x float[N,4] -> y float[N,4]: m = Softmax<axis = 0>(x)  s = Shape(m)  "
        "z = Constant<value = float[1] {0}>()  e = Expand(z, s)  y = Add(x, e)"
    )
    assert verdict(parsed(text)) is None
