"""What all layers have in common, and the types that only have a name."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tnn_serving.errors import UnsupportedLayer, WeightsError
from tnn_serving.layers.registry import declaration, make
from tnn_serving.tensor import PROTO_V1, Tensor


@pytest.mark.parametrize("name", ["Dropout", "Nonsense"])
def test_reserved_layers_keep_their_tokens_and_refuse_to_run(name: str) -> None:
    made = make(name, "n", ("x",), ("y",), ["1", "two"])
    assert made.tokens() == ["1", "two"]
    assert made.tokens(canonical=True) == []
    with pytest.raises(UnsupportedLayer, match=name):
        made.to_onnx(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "quantized", "dynamic_range"),
    [
        ("Convolution", False, False),
        ("QuantizedConvolution", True, False),
        ("DynamicRangeQuantizedConvolution", False, True),
        ("QuantizedSum", True, False),
    ],
)
def test_marks(name: str, quantized: bool, dynamic_range: bool) -> None:
    made = declaration(name)(name="n", type=name)
    assert (made.quantized, made.dynamic_range) == (quantized, dynamic_range)


def test_surplus_tokens_are_kept_behind() -> None:
    made = make("Softmax", "n", ("x",), ("y",), ["2", "9", "z"])
    assert (made.surplus, made.tokens(), made.tokens(canonical=True)) == (("9", "z"), ["2", "9", "z"], ["2"])


def test_weights_that_are_there_in_file_order() -> None:
    made = declaration("BatchNormCxx")(name="n", inputs=("x",), outputs=("y",))
    assert list(made.weights()) == []
    with pytest.raises(WeightsError, match="no `scale` in the model file"):
        made.need("scale")
    made.bias = Tensor.of(np.float32([1]), version=PROTO_V1)
    made.scale = Tensor.of(np.float32([2]))
    assert [spec.name for spec, _ in made.weights()] == ["scale", "bias"]
    assert made.need("scale") is made.scale


def test_warnings_of_a_layer_come_once(caplog: pytest.LogCaptureFixture) -> None:
    layer = make("ReLU", "r", ["x", "z"], ["y"], [])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            layer.warn("once")
        layer.warn("and another")
    assert [record.getMessage() for record in caplog.records] == [
        "layer `r` (ReLU): once",
        "layer `r` (ReLU): and another",
    ]
