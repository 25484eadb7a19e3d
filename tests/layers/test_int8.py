"""Every layer type with an int8 form: the same codes on both engines, in each form, as codes and as real numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import network
from tnn_serving.errors import ShapeError, TnnError, UnsupportedLayer, WeightsError
from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer
from tnn_serving.layers.registry import declared
from tnn_serving.tensor import BlobScale, Tensor

ENGINES = ("openvino", "onnxruntime")
IMAGE = (2, 4, 6, 6)

CASES = {
    "convolution": "QuantizedConvolution n 1 1 x y 1 4 5 3 3 1 1 1 1 1 -1 1 1 0",
    "convolution of SAME padding with ReLU": "QuantizedConvolution_nhwc n 1 1 x y 1 4 4 3 3 2 2 0 0 1 0 1 1 1",
    "depthwise convolution with ReLU6": "QuantizedConvolution n 1 1 x y 4 1 4 3 3 1 1 1 1 0 -1 1 1 2",
    "pointwise convolution with a stride": "QuantizedConvolution n 1 1 x y 1 4 3 1 1 2 2 0 0 1 -1 1 1 0",
    "inner product": "QuantizedInnerProduct n 1 1 x y 5 1 0 1",
    "addition": "QuantizedAdd n 2 1 x z y -1",
    "addition of three": "QuantizedAdd n 3 1 x z x y -1",
    "concatenation": "QuantizedConcat n 2 1 x z y 2",
    "maximum pooling": "QuantizedPooling n 1 1 x y 0 3 3 2 2 1 1 -1 -1 -1 0 0 0 0",
    "average pooling": "QuantizedPooling n 1 1 x y 1 2 2 2 2 0 0 -1 -1 -1 0 0 0 0",
    "global average": "QuantizedPooling n 1 1 x y 1 0 0 1 1 0 0 -1 -1 -1 0 0 0 0",
    "ReLU": "QuantizedReLU n 1 1 x y",
    "sigmoid": "QuantizedSigmoid n 1 1 x y",
    "permutation": "QuantizedPermute n 1 1 x y 4 0 2 3 1",
    "reshape": "QuantizedReshape n 1 1 x y 0 4 4 0 2 2 -1 0",
    "reshape in NHWC order": "QuantizedReshapeTensorflow n 1 1 x y 0 4 4 0 4 9 4 1",
    "nearest upsampling": "QuantizedUpsample n 1 1 x y 1 2 2 0",
    "bilinear upsampling": "QuantizedUpsample n 1 1 x y 2 1.5 2 0",
    "cubic upsampling": "QuantizedUpsample n 1 1 x y 3 0 0 1 9 7",
}

REPEATED = {
    "permutation",
    "reshape",
    "reshape in NHWC order",
    "ReLU",
    "maximum pooling",
    "average pooling",
    "global average",
}
"""Moves and reductions of codes, whose output must have the scale of the input."""


def stored(scales: Sequence[float], zeros: Sequence[int]) -> BlobScale:
    """A blob's entry in the model file."""
    bias = np.zeros(len(scales), np.int32)
    return BlobScale(*map(Tensor.of, (np.array(scales, np.float32), np.array(zeros, np.int8), bias)))


STEPS = {"x": 0.05173, "z": 0.07337, "y": 0.06291}
"""Scales of the blobs, of so many digits that hardly a sum is halfway between two codes."""

SCALES = {
    "one scale": {name: stored([step], [0]) for name, step in STEPS.items()},
    "one for all blobs": {name: stored([0.05173], [0]) for name in STEPS},
    "zero points": {name: stored([step], [zero]) for (name, step), zero in zip(STEPS.items(), (3, -5, 7), strict=True)},
    "scales per channel": {
        name: stored([step * (1 + 0.1 * k) for k in range(9)], [0] * 9) for name, step in STEPS.items()
    },
}


def quantized(line: str, scales: dict[str, BlobScale]) -> Graph:
    """A network of one int8 layer, with weights so small that no engine saturates a sum of 16 bits."""
    inputs = {"x": IMAGE, "z": IMAGE} if " z " in line else {"x": IMAGE}
    graph = network(inputs, [line], ["y"])
    graph.scales.update({name: scales[name] for name in graph.scales})
    layer = graph.layers[0]
    for name in ("filter", "weight"):
        codes = getattr(layer, name, None)
        if codes is not None:
            setattr(layer, name, Tensor.of((codes.array() // 16).astype(np.int8)))
            layer.scale = Tensor.of(layer.scale.array() * 16)  # type: ignore[attr-defined]
    for name in ("x", "y"):  # as many scales as channels, where a product insists on it
        outputs = getattr(layer, "output_channel", getattr(layer, "num_output", 0))
        scale = graph.scales[name]
        if outputs and name == "y" and scale.scale.size > 1:
            graph.scales[name] = stored(scale.scales()[:outputs].tolist(), scale.zero_points()[:outputs].tolist())
    return graph


def combinations() -> Iterator[tuple[str, str]]:
    """Cases with the scales that have a meaning for them, and another path in the translation."""
    for case in CASES:
        yield from ((case, "one scale"), (case, "zero points"))
        if "upsampling" in case or case == "concatenation":
            yield case, "one for all blobs"
        if case not in ("permutation", "reshape in NHWC order", "concatenation", "inner product"):
            yield case, "scales per channel"


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kind"), list(combinations()))
def test_codes_are_equal_on_both_engines_and_within_a_step_in_the_fast_form(case: str, kind: str) -> None:
    scales = {**SCALES[kind], "y": SCALES[kind]["x"]} if case in REPEATED else SCALES[kind]
    graph = quantized(CASES[case], scales)
    random = np.random.default_rng(3)
    codes = {item.name: random.integers(-128, 128, item.dims).astype(np.int8) for item in graph.inputs}
    exact, *others = (answer(graph, engine, "exact", codes) for engine in ENGINES)
    assert np.unique(exact).size > 4
    np.testing.assert_array_equal(exact, *others)
    reals = {name: spelled(graph, name, array) for name, array in codes.items()}
    for engine in ENGINES:
        fast = answer(graph, engine, "fast", codes)
        assert np.abs(fast.astype(int) - exact).max() <= 1, engine
        real = ts.load(graph, engine, int8="fast", threads=1).run(reals)["y"]
        assert real.dtype == np.float32
        np.testing.assert_allclose(real, spelled(graph, "y", fast), atol=1e-5, err_msg=engine)


def answer(graph: Graph, engine: str, form: str, codes: dict[str, np.ndarray]) -> np.ndarray:
    """The codes that come out."""
    y = ts.load(graph, engine, int8=form, raw_int8=True, threads=1).run(codes)["y"]
    assert y.dtype == np.int8
    return y


def spelled(graph: Graph, name: str, codes: np.ndarray) -> np.ndarray:
    """The real numbers of a blob's codes."""
    scale, zero = graph.scales[name].scales(), graph.scales[name].zero_points()
    if scale.size > 1:
        shape = (-1, *(1,) * (codes.ndim - 2))
        scale, zero = (v[: codes.shape[1]].reshape(shape) for v in (scale, zero))
    return (codes.astype(np.float32) - zero.astype(np.float32)) * scale


def test_each_type_with_an_int8_form_is_driven() -> None:
    runs = {
        name
        for name, cls in declared().items()
        if name.startswith("Quantized") and cls.to_onnx_int8 is not Layer.to_onnx_int8
    }
    assert {line.split()[0] for line in CASES.values()} == runs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["exact", "fast"])
def test_an_upsampling_between_int8_layers(engine: str, form: str) -> None:
    graph = network(
        {"data": (1, 3, 8, 8)},
        [
            "QuantizedConvolution c0 1 1 data b0 1 3 4 3 3 1 1 1 1 1 -1 1 1 1",
            "QuantizedConvolution c1 1 1 b0 b1 1 4 4 3 3 2 2 1 1 1 -1 1 1 0",
            "QuantizedUpsample up 1 1 b1 up 1 2.0 2.0 0 0 0",
            "QuantizedAdd add 2 1 up b0 out -1",
        ],
        ["out", "up", "b1"],
    )
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    got = ts.load(graph, engine, int8=form, threads=1).run({"data": x})
    np.testing.assert_array_equal(got["up"], got["b1"].repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize(
    ("lines", "inputs", "error", "words"),
    [
        (
            ["QuantizedConvolution n 1 1 x y 1 3 4 3 3 1 1 1 1 1 -1 1 1 0"],
            {"x": (3, 8)},
            ShapeError,
            r"expected \[N, C, H, W\]",
        ),
        (
            ["QuantizedReLU n 1 1 c y"],
            {"x": (1, 2)},
            UnsupportedLayer,
            "reads blobs, not constants: found constant `c`",
        ),
        (["QuantizedConcat n 2 1 x c y 0"], {"x": (1, 2)}, UnsupportedLayer, "constant `c`"),
        (["QuantizedAdd n 1 1 x y -1"], {"x": (1, 2)}, UnsupportedLayer, "needs two blobs or more: found 1"),
        (["QuantizedAdd n 2 1 x z y -1"], {"x": (1, 2), "z": (2, 2)}, ShapeError, "equal dims"),
        (["QuantizedSum n 1 1 x y"], {"x": (1, 2)}, UnsupportedLayer, "no int8 form"),
        (
            [
                "QuantizedConvolution n 1 1 x e 1 4 4 1 1 1 1 0 0 1 -1 1 1 0",
                "QuantizedAdd s 2 1 e z y -1",
            ],
            {"x": (1, 4, 5, 5), "z": (1, 4, 1, 1)},
            ShapeError,
            "an addition of int8 operands needs equal dims",
        ),
        (
            [
                "QuantizedConvolution n 1 2 x e f 1 4 4 1 1 1 1 0 0 1 -1 1 1 0",
                "QuantizedReLU r 1 1 e y",
            ],
            {"x": (1, 4, 5, 5)},
            ShapeError,
            "wrong number of outputs",
        ),
    ],
)
def test_what_no_int8_layer_takes_is_refused_by_name(
    lines: list[str], inputs: dict[str, Sequence[int]], error: type[TnnError], words: str
) -> None:
    with pytest.raises(error, match=rf"layer 0 `n` \(Quantized.*{words}"):
        network(inputs, lines, ["y"], constants={"c": np.zeros((1, 2), np.float32)})


def test_a_blob_scale_without_values_is_refused() -> None:
    graph = network({"x": (1, 2)}, ["QuantizedReLU n 1 1 x y"], ["y"])
    graph.scales["x"] = stored([], [])
    with pytest.raises(WeightsError, match="scale of an int8 blob is broken: found 0 scales and 0 zero points"):
        ts.load(graph, "onnxruntime")
