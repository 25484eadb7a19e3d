"""Operands as they are declared: what a layer takes, what it refuses with which words, and what TNN ignores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tnn_serving as ts
from tests.networks import one_layer
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import ShapeError, TnnError, UnsupportedLayer
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import ANY, Operand, Pattern, patterns, types_text
from tnn_serving.layers.parameters import HW, Parameter
from tnn_serving.layers.registry import declared, make
from tnn_serving.tensor import STORAGE, TNN_TYPE, DataType, Tensor
from tnn_serving.translate.graph import Translation, translate

CLASSES = {cls.types[0]: cls for cls in declared().values()}
RANKS = range(7)
LIMITS = Limits(memory_bytes=2**28)

# Why TNN itself refuses a further input, or has no meaning for it.
COUNTED = {
    "DetectionPostProcess": "it asserts that there are two",
    "Equal": "comparisons write the operands into an array of two",
    "GatherND": "its shape comes from the second input, its indices from the last",
    "Greater": "comparisons write the operands into an array of two",
    "Less": "comparisons write the operands into an array of two",
    "MatMul": "it refuses any number but one or two",
    "Range": "it refuses any number but three",
}


# ---- the vocabulary ----


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("[...]", [Pattern((), True, ())]),
        ("[]", [Pattern((), False, ())]),
        ("[N, C, H, W]", [Pattern((None,) * 4, False, ())]),
        ("[N, 3, ...]", [Pattern((None, 3), True, ())]),
        ("[..., 2, 2]", [Pattern((), True, (2, 2))]),
        ("[N, ..., 4]", [Pattern((None,), True, (4,))]),
        ("[] or [1]", [Pattern((), False, ()), Pattern((1,), False, ())]),
        ("as x", [Pattern((), True, ())]),
    ],
)
def test_patterns(shape: str, wanted: list[Pattern]) -> None:
    assert list(patterns(shape)) == wanted


@pytest.mark.parametrize("shape", ["", "N, C", "[..., ...]", "[N", "[1] or 2"])
def test_what_is_no_shape(shape: str) -> None:
    with pytest.raises(ValueError, match=r"not a shape|more than one"):
        Operand("x", shape)


@pytest.mark.parametrize(
    ("shape", "dims", "fits"),
    [
        ("[N, C, ...]", (1, 2), True),
        ("[N, C, ...]", (1,), False),
        ("[N, 3, H, W]", (1, 3, 4, 4), True),
        ("[N, 3, H, W]", (1, 4, 4, 4), False),
        ("[N, 3, H, W]", (1, None, 4, 4), True),
        ("[..., 2, 2]", (2, 2), True),
        ("[..., 2, 2]", (5, 2, 3), False),
        ("[] or [1]", (), True),
        ("[] or [1]", (2,), False),
        ("[...]", (), True),
    ],
)
def test_which_dims_fit(shape: str, dims: tuple[int | None, ...], fits: bool) -> None:
    assert any(pattern.fits(dims) for pattern in patterns(shape)) is fits


def test_types_as_words() -> None:
    assert types_text(ANY[:1]) == "float32"
    assert types_text(ANY[:3]) == "float32, int32 or int8"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_declaration_names_what_exists(kind: str) -> None:
    cls = CLASSES[kind]
    names = [operand.name for operand in cls.operands]
    parameters = {spec.name for spec in cls.parameters}
    assert len(set(names)) == len(names)
    assert not any(operand.repeated for operand in (*cls.operands[:-1], *cls.results[:-1]))
    seen: set[str] = set()
    for operand in (*cls.operands, *cls.results):
        assert operand.like is None or operand.like in seen
        assert not operand.shape.startswith("as ") or operand.shape[3:] in seen
        assert parameters.issuperset(operand.replaces)
        assert operand.types
        seen.add(operand.name)
    assert cls.results
    assert cls.operands or kind == "Const"


# ---- networks of one layer ----


FLOATS = np.float32([[1, 2, 3], [4, 5, 6]])
INTS = FLOATS.astype(np.int32)


@pytest.mark.parametrize(
    ("graph", "error", "words"),
    [
        (
            one_layer("Softmax", {"data": INTS}, "1"),
            UnsupportedLayer,
            r"layer 0 `n` \(Softmax\): input `data` \(x\) has an unsupported element type: expected float32, found "
            "int32",
        ),
        (
            one_layer("BitShift", {"x": FLOATS}, "0 1"),
            UnsupportedLayer,
            "input `x` has an unsupported element type: expected int32 or uint32, found float32",
        ),
        (
            one_layer("LRN", {"data": FLOATS}, "1 1 1 3"),
            ShapeError,
            r"layer 0 `n` \(LRN\): input `data` \(x\) has another shape: expected \[N, C, H, W\], found \[2, 3\]",
        ),
        (
            one_layer("Add", {"a": FLOATS, "b": INTS}, "-1"),
            ShapeError,
            "input `b` has another element type than `a`: expected float32, found int32",
        ),
        (
            one_layer("Where", {"x": FLOATS, "z": INTS, "c": INTS}),
            ShapeError,
            r"input `z` \(b\) has another element type than `a`",
        ),
        (
            one_layer("Range", {"x": FLOATS}),
            ShapeError,
            r"wrong number of inputs: expected 3 \(start, limit, delta\), found 1",
        ),
        (
            one_layer("DynamicRangeQuantizedMatMul", {"x": FLOATS}, "-1", w=np.int8([[1], [2], [3]])),
            UnsupportedLayer,
            "input `w` .b. has an unsupported element type: .* constant `w_dynamic_range_quant_scale`",
        ),
    ],
    ids=lambda value: value.layers[0].type if isinstance(value, Graph) else "",
)
def test_messages_name_operand_expected_and_found(graph: Graph, error: type[TnnError], words: str) -> None:
    with pytest.raises(error, match=words):
        translate(graph)


def run(graph: Graph, **inputs: np.ndarray) -> np.ndarray:
    """The output, the same on both engines."""
    answers = [ts.load(graph, engine, threads=1).run(inputs)["y"] for engine in ("openvino", "onnxruntime")]
    np.testing.assert_allclose(*answers, rtol=1e-6)
    return answers[0]


# ---- inputs that TNN does not read ----


def test_a_slice_takes_begins_and_ends_from_inputs_and_the_rest_from_parameters() -> None:
    x = np.arange(20, dtype=np.float32).reshape(2, 10)
    given = {"begins": np.int32([2]), "ends": np.int32([8]), "axes": np.int32([0]), "steps": np.int32([1])}
    graph = one_layer("StridedSliceV2", {"x": x}, "1 0 1 4 1 1 1 2", **given)
    np.testing.assert_array_equal(run(graph, x=x), x[:, 2:8:2])


def test_parameters_decide_where_nothing_produces_an_input(caplog: pytest.LogCaptureFixture) -> None:
    x = np.arange(20, dtype=np.float32).reshape(2, 10)
    graph = one_layer("StridedSliceV2", {"x": x}, "1 1 1 9 1 1 1 3")
    graph.layers[0].inputs = ("x", "begins", "ends", "axes", "steps")
    np.testing.assert_array_equal(run(graph, x=x), x[:, 1:9:3])
    assert [record.getMessage() for record in caplog.records] == [
        f"layer `n` (StridedSliceV2): nothing produces input `{name}`; the parameters decide, as in TNN"
        for name in ("begins", "ends")
    ]


def test_an_input_that_a_later_layer_produces_is_missing() -> None:
    graph = one_layer("TopK", {"x": FLOATS}, "1 1 1 2")
    graph.layers[0].inputs, graph.layers[0].outputs = ("x", "k"), ("y", "i")
    graph.layers.append(make("Cast", "c", ["x"], ["k"], ["3"]))
    with pytest.raises(ShapeError, match="input `k` is not available"):
        translate(graph)


@pytest.mark.parametrize(
    ("kind", "line", "wanted"),
    [
        ("ReduceMax", "1 1", FLOATS.max(1, keepdims=True)),
        ("Neg", "", -FLOATS),
        ("Unsqueeze", "1 0", FLOATS[None]),
        ("Reshape", "0 2 2 3 2", FLOATS.reshape(3, 2)),
        ("Clip", "2 5", FLOATS.clip(2, 5)),
        ("Permute", "2 1 0", FLOATS.T),
        ("SplitV", "1 1 3", FLOATS),
        ("PadV2", "2 0 1 0 0 0 7", np.pad(FLOATS, ((0, 0), (1, 0)), constant_values=7)),
    ],
)
def test_further_inputs_are_ignored_with_one_warning(
    kind: str, line: str, wanted: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    declared_count = len(CLASSES[kind].operands)
    names = [f"c{k}" for k in range(1, declared_count + 1)]
    graph = one_layer(kind, {"x": FLOATS}, line)
    graph.layers[0].inputs = ("x", *names)
    graph.constants[names[-1]] = Tensor.of(np.int32([0, 0, 0]))
    np.testing.assert_allclose(run(graph, x=FLOATS), wanted, rtol=1e-6)
    ignored = f"layer `n` ({kind}): input `{names[-1]}` is ignored, as by TNN"
    assert [record.getMessage() for record in caplog.records].count(ignored) == 1


def test_an_upsampling_of_many_inputs_goes_by_its_parameters() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    others = {name: np.float32([1, 1, 9, 9]) for name in ("a", "b", "c", "d")}
    y = run(one_layer("Upsample", {"x": x}, "1 2 2 0", **others), x=x)
    np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(2, 3))


def test_an_lstm_ignores_an_initial_state_without_the_other() -> None:
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 1, 2)
    shapes = {"w": (1, 4, 2), "r": (1, 4, 1), "b": (1, 8)}
    weights = {name: np.ones(dims, np.float32) for name, dims in shapes.items()}
    plain = run(one_layer("LSTMONNX", {"x": x}, "0 1 0", **weights), x=x)
    state = np.full((1, 1, 1), 5, np.float32)
    np.testing.assert_allclose(run(one_layer("LSTMONNX", {"x": x}, "0 1 0", **weights, h0=state), x=x), plain)


def test_a_gather_takes_the_first_input_and_the_last() -> None:
    indices = {"middle": np.int32([9]), "last": np.int32([1, 0])}
    np.testing.assert_array_equal(run(one_layer("Gather", {"x": FLOATS}, "0 0 0", **indices), x=FLOATS), FLOATS[[1, 0]])


@pytest.mark.parametrize("kind", CLASSES)
def test_which_types_count_their_inputs(kind: str) -> None:
    assert CLASSES[kind].counts_inputs is (kind in COUNTED)
    _, most = CLASSES[kind].input_range()
    assert (most is not None) is (kind in COUNTED)


@pytest.mark.parametrize("kind", COUNTED)
def test_a_further_input_of_those_is_refused(kind: str) -> None:
    cls = CLASSES[kind]
    inputs = {f"x{k}": FLOATS for k in range(len(cls.operands) + 1)}
    with pytest.raises(ShapeError, match=r"layer 0 `n` .* wrong number of inputs"):
        translate(one_layer(kind, inputs, " ".join(["1"] * 14)))


# ---- whatever the inputs are ----


def simple(spec: Parameter) -> Any:
    """A value of a parameter that makes sense in most layers."""
    if spec.form == "group":
        assert spec.group is not None
        return spec.group(*[1] * len(spec.group._fields))  # type: ignore[attr-defined]
    if spec.form in ("counted", "rest"):
        return ()
    if spec.form == "pair":
        return None
    return spec.kind(sorted(spec.values)[-1] if spec.values else "ij->ji" if spec.kind is str else 1)


def dims_of(operand: Operand, size: int = 2) -> tuple[int, ...]:
    """Dims that fit an operand; every size that is open is ``size``."""
    pattern = patterns(operand.shape)[-1]
    entries = (*pattern.front, *((None, None) if pattern.open else ()), *pattern.back)
    return tuple(size if entry is None else entry for entry in entries)


def network(layer: Layer, dims: Sequence[tuple[int, ...]], types: Sequence[np.dtype]) -> Graph:
    inputs = [Input(name, *rest) for name, *rest in zip(layer.inputs, dims, map(TNN_TYPE.get, types), strict=True)]
    return Graph(inputs, list(layer.outputs), [layer])


def attempt(graph: Graph) -> Translation | None:
    """The network with random weights, translated; ``None`` if its layer is refused by name."""
    try:
        return translate(ts.fill_random_weights(graph, name="net"), limits=LIMITS)
    except TnnError as error:
        refusal = str(error)
    assert any(place in refusal for place in ("`n`", "input `", "output `")), refusal
    return None


def check_results(layer: Layer, made: Translation) -> None:
    """Outputs have the shapes and element types that are declared."""
    types = {role.name: blob.dtype for role, blob in zip(layer.roles(), made.inputs, strict=False)}
    results = [*layer.results, *[layer.results[-1]] * (len(made.outputs) - len(layer.results))]
    for result, output in zip(results, made.outputs, strict=False):
        assert any(pattern.fits(output.dims) for pattern in patterns(result.shape)), (result, output)
        assert output.dtype == types[result.like] if result.like in types else output.dtype in result.types


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_every_rank_and_type_works_or_is_refused_by_name(kind: str) -> None:
    cls = CLASSES[kind]
    outputs = tuple(f"y{k}" for k in range(cls.output_range()[0]))
    for place, operand in enumerate(cls.operands):
        count = max(place + 1, cls.input_range()[0])
        for rank in RANKS:
            for dtype in operand.types if rank else ANY:
                layer = cls(
                    name="n",
                    inputs=tuple(f"x{k}" for k in range(count)),
                    outputs=outputs,
                    **{spec.name: simple(spec) for spec in cls.parameters},
                )
                dims = [dims_of(other) for other in cls.operands[:count]]
                types = [other.types[0] for other in cls.operands[:count]]
                dims[place], types[place] = (2,) * rank, dtype
                made = attempt(network(layer, dims, types))
                if made is not None:
                    check_results(layer, made)


EDGES = [0, 1, -1, 2, 3, 5, -2, 100_000, 2**31 - 1, -(2**31)]
FLOAT_EDGES = [0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 1e-40, float("inf"), float("-inf"), float("nan")]


def any_value(spec: Parameter) -> st.SearchStrategy[Any]:
    """Values of a parameter, sensible or not."""
    one: st.SearchStrategy[Any] = st.sampled_from(FLOAT_EDGES if spec.kind is float else EDGES).map(spec.kind)
    if spec.kind is str:
        return st.sampled_from(["", "ij;jk->ik", "ii->i", "...;...", "->", "a;b;c->", "é"])
    if spec.values:
        one = st.sampled_from(sorted(spec.values)).map(spec.kind) | one
    if spec.form == "group":
        assert spec.group is not None
        return st.tuples(*[one] * len(spec.group._fields)).map(lambda members: spec.group(*members))  # type: ignore[attr-defined,misc]
    if spec.form == "counted":
        rows = st.lists(st.tuples(*[one] * spec.per), max_size=6)
        return rows.map(lambda drawn: tuple(value for row in drawn for value in row))
    if spec.form == "rest":
        return st.lists(one, max_size=4).map(tuple)
    return st.none() | st.tuples(one, one).map(lambda members: HW(*members)) if spec.form == "pair" else one


@st.composite
def any_network(draw: Callable[[st.SearchStrategy[Any]], Any], cls: type[Layer]) -> Graph:
    """One layer with any parameters, inputs, constants and weights."""
    least, most = cls.input_range()
    count = draw(st.integers(0, 7) | st.integers(least, max(least, most or len(cls.operands))))
    outputs = draw(st.integers(*cls.output_range()) if cls.output_range()[1] else st.integers(1, 3))
    parameters = {spec.name: draw(st.just(simple(spec)) | any_value(spec)) for spec in cls.parameters}
    layer = cls(
        type=draw(st.sampled_from(cls.types)),
        name="n",
        inputs=tuple(f"x{k}" for k in range(count)),
        outputs=tuple(f"y{k}" for k in range(outputs)),
        **parameters,
    )
    sizes = st.sampled_from([0, 1, 1, 2, 2, 3, 4])
    inputs, constants = [], {}
    for name, operand in zip(layer.inputs, [*cls.operands, *[Operand("surplus")] * count], strict=False):
        fitting = st.builds(dims_of, st.just(operand), sizes)
        dims = draw(fitting | st.lists(sizes, max_size=6).map(tuple))
        dtype = draw(st.sampled_from(operand.types) | st.sampled_from(ANY))
        if draw(st.integers(0, 3)):
            inputs.append(Input(name, dims, TNN_TYPE[dtype]))
        else:
            numbers = np.resize(np.array(draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=4))), dims)
            constants[name] = Tensor.of(numbers.astype(dtype))
    if draw(st.booleans()):
        for spec in cls.payload:
            if spec.form in ("flag", "byte"):
                setattr(layer, spec.name, draw(st.integers(0, 1)))
            elif spec.form in ("tensor", "beside") and draw(st.booleans()):
                kind = draw(st.sampled_from([DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32]))
                dims = draw(st.lists(sizes, max_size=4).map(tuple))
                setattr(layer, spec.name, Tensor.of(np.ones(dims, STORAGE[kind])))
    return Graph(inputs, list(layer.outputs), [layer], constants=constants)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_whatever_a_file_says_works_or_is_refused_by_name(kind: str) -> None:
    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    @given(any_network(CLASSES[kind]))
    def check(graph: Graph) -> None:
        attempt(graph)

    check()
