"""What each engine promises, on hand-made ONNX."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tnn_serving.engines import ENGINES, Options
from tnn_serving.errors import EngineError


def model(nodes: list[onnx.NodeProto], outputs: list[str], shape: list[int | str]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_outputs_keep_their_names_where_the_engine_merges_them(engine: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    executable = ENGINES[engine].compile(model(nodes, ["z", "y"], ["n", 3]), Options())
    assert [spec.name for spec in executable.outputs] == ["z", "y"]
    got = executable.run({"x": np.array([[-1, 0, 2]], np.float32)})
    np.testing.assert_array_equal(got["z"], [[0, 0, 2]])
    np.testing.assert_array_equal(got["y"], got["z"])


def test_arithmetic_is_f32(engine: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((256, 256)).astype(np.float32)
    nodes = [constant("w", w), helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = rng.standard_normal((4, 256)).astype(np.float32)
    got = ENGINES[engine].compile(model(nodes, ["y"], ["n", 256]), Options()).run({"x": x})["y"]
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["the input", "Conv", "Relu of Conv", "Resize", "Add", "Mul"])
@pytest.mark.parametrize("dims", [["n", 4, "h", "w"], [2, 4, 30, 20]], ids=["free", "fixed"])
def test_division_is_rounded_right_where_asked(engine: str, behind: str, dims: list[str | int]) -> None:
    """Whatever operator is before it, and might be joined with it."""
    divisor = np.array([0.12, 0.04, 3.0, 7e-3], np.float32).reshape(1, 4, 1, 1)
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((4, 4, 1, 1)).astype(np.float32)
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [constant("s", divisor), constant("f", filters), constant("k", scales)]
    nodes += {
        "the input": [helper.make_node("Identity", ["x"], ["v"])],
        "Conv": [helper.make_node("Conv", ["x", "f"], ["v"])],
        "Relu of Conv": [helper.make_node("Conv", ["x", "f"], ["c"]), helper.make_node("Relu", ["c"], ["v"])],
        "Resize": [helper.make_node("Resize", ["x", "", "k"], ["v"], mode="linear")],
        "Add": [helper.make_node("Abs", ["x"], ["c"]), helper.make_node("Add", ["x", "c"], ["v"])],
        "Mul": [helper.make_node("Mul", ["x", "s"], ["v"])],
    }[behind]
    quotient = [helper.make_node("Div", ["v", "s"], ["q"]), helper.make_node("Clip", ["q"], ["y"])]
    x = (rng.standard_normal((2, 4, 30, 20)) * 10.0 ** rng.integers(-6, 6, (2, 4, 30, 20))).astype(np.float32)
    options = Options(exact_codes=True)
    got = ENGINES[engine].compile(model([*nodes, *quotient], ["y"], dims), options).run({"x": x})["y"]
    before = ENGINES[engine].compile(model(nodes, ["v"], dims), options).run({"x": x})["v"]
    np.testing.assert_array_equal(got, before / divisor)


@pytest.mark.parametrize("dims", [["n", 4, "h", "w"], [2, 4, 30, 20]], ids=["free", "fixed"])
def test_products_are_rounded_before_they_are_added_where_asked(engine: str, dims: list[str | int]) -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((4, 1, 1)).astype(np.float32) for _ in range(2))
    nodes = [
        constant("a", a),
        constant("b", b),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "a"], ["p"]),
        helper.make_node("Mul", ["x", "b"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    x = random.standard_normal((2, 4, 30, 20)).astype(np.float32)
    got = ENGINES[engine].compile(model(nodes, ["y"], dims), Options(exact_codes=True)).run({"x": x})
    np.testing.assert_array_equal(got["y"], np.maximum(x, 0) * a + x * b)


@pytest.mark.parametrize("dims", [["n", 3], [4, 3]], ids=["free", "fixed"])
def test_divisions_of_integers_cut_off_the_rest(engine: str, dims: list[str | int]) -> None:
    """Of sizes, which are known beforehand with fixed shapes, and behind a reduction."""
    nodes = [
        constant("three", np.array([3], np.int64)),
        constant("eight", np.array([8], np.int64)),
        constant("three32", np.array([3], np.int32)),
        constant("axis", np.array([1], np.int64)),
        helper.make_node("Shape", ["x"], ["dims"], end=1),
        helper.make_node("Sub", ["dims", "eight"], ["below"]),
        helper.make_node("Div", ["below", "three"], ["size"]),
        helper.make_node("Cast", ["size"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
        helper.make_node("ReduceSum", ["whole", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sum", "three32"], ["mean"]),
        helper.make_node("Cast", ["mean"], ["z"], to=TensorProto.FLOAT),
    ]
    x = np.array([[1, 2, 2], [-1, -2, -2], [0, 0, 2], [7, 7, 7]], np.float32)
    got = ENGINES[engine].compile(model(nodes, ["y", "z"], dims), Options()).run({"x": x})
    np.testing.assert_array_equal(got["y"], [-1])
    np.testing.assert_array_equal(got["z"], [[1], [-1], [0], [7]])


def test_a_refusal_is_an_engine_error(engine: str) -> None:
    executable = ENGINES[engine].compile(model([helper.make_node("Relu", ["x"], ["y"])], ["y"], ["n", 3]), Options())
    with pytest.raises(EngineError):
        executable.run({"x": np.zeros((1, 5), np.float32)})
    np.testing.assert_array_equal(executable.run({"x": np.ones((2, 3), np.float32)})["y"], np.ones((2, 3)))


def reshaping() -> onnx.ModelProto:
    """Takes pictures of sixteen times any number of pixels; whether they fit shows in the middle only."""
    rng = np.random.default_rng(0)
    nodes = [
        constant("w", rng.standard_normal((4, 3, 3, 3)).astype(np.float32)),
        constant("v", rng.standard_normal((4, 4, 3, 3)).astype(np.float32)),
        constant("s", np.array([0, 4, 16, -1])),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c", "s"], ["k"]),
        helper.make_node("Conv", ["k", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return model(nodes, ["y"], ["n", 3, "h", "w"])


def test_an_inference_that_fails_spoils_no_later_one(engine: str) -> None:
    executable = ENGINES[engine].compile(reshaping(), Options(threads=2))
    rng = np.random.default_rng(1)
    good = [rng.standard_normal((1, 3, size, size)).astype(np.float32) for size in (8, 16, 12)]
    wanted = [executable.run({"x": x})["y"] for x in good]
    for _ in range(3):
        with pytest.raises(EngineError):
            executable.run({"x": np.zeros((1, 3, 8, 9), np.float32)})
        for x, y in zip(good, wanted, strict=True):
            np.testing.assert_allclose(executable.run({"x": x})["y"], y, atol=1e-4)


@pytest.mark.slow
def test_an_inference_that_fails_spoils_none_beside_it(engine: str) -> None:
    executable = ENGINES[engine].compile(reshaping(), Options(threads=2))
    x = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32)
    wanted = executable.run({"x": x})["y"]
    problems: list[object] = []

    def ask() -> None:
        for _ in range(40):
            try:
                if not np.allclose(executable.run({"x": x})["y"], wanted, atol=1e-4):
                    problems.append("wrong")
            except EngineError as error:
                problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        with pytest.raises(EngineError):
            executable.run({"x": np.zeros((1, 3, 63, 65), np.float32)})
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "width"), [((3, 3), 2, 3), ((1, 3), 3, 5), ((3, 5), 2, 6)])
def test_strided_convolution_to_one_column(
    engine: str, channels: int, kernel: tuple[int, int], stride: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((8, channels, *kernel)).astype(np.float32)
    x = rng.standard_normal((5, channels, 4, width)).astype(np.float32)
    nodes = [constant("w", filters), helper.make_node("Conv", ["x", "w"], ["y"], strides=[1, stride])]
    got = ENGINES[engine].compile(model(nodes, ["y"], ["n", channels, "h", "w"]), Options()).run({"x": x})["y"]
    rows = 4 - kernel[0] + 1
    wanted = np.stack(
        [np.einsum("nchw,ochw->no", x[:, :, r : r + kernel[0], : kernel[1]], filters) for r in range(rows)], axis=2
    )
    np.testing.assert_allclose(got, wanted[..., None], rtol=1e-4, atol=1e-4)
