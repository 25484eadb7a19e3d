"""Patterns of ONNX nodes: how they are written, and what they match."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.layers.pattern import OnnxNode, OnnxValue, match, parsed
from tnn_serving.layers.registry import declared

KIND = np.dtype(np.float32)


def value(name: str, *dims: int, number: float | None = None) -> OnnxValue:
    sample = None if number is None else np.full(dims, number, np.float32)
    return OnnxValue(name, KIND, dims, dims, sample, number is not None)


def node(operator: str, *inputs: OnnxValue | None) -> OnnxValue:
    made = OnnxNode(operator, list(inputs), [])
    made.outputs = [OnnxValue(operator.lower(), KIND, (2,), (2,), producer=made)]
    return made.outputs[0]


def root(of: OnnxValue) -> OnnxNode:
    assert of.producer is not None
    return of.producer


def test_every_declared_pattern_can_be_read() -> None:
    patterns = [text for cls in declared().values() for text in cls.made_from]
    assert len(patterns) > 100
    assert all(parsed(text).size >= 1 for text in patterns)


@pytest.mark.parametrize("text", ["x", "Mul(x", "Mul(x, y) z", "Mul(x; y)"])
def test_another_text_is_no_pattern(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parsed(text)


def test_operands_that_commute_come_in_either_order() -> None:
    x = value("x", 2)
    for product in (node("Mul", x, node("Sigmoid", x)), node("Mul", node("Sigmoid", x), x)):
        found = match(parsed("Mul(x, Sigmoid(x))"), root(product))
        assert found is not None
        assert found["x"] is x
        assert [part.op_type for part in found.nodes] == ["Mul", "Sigmoid"]
    assert match(parsed("Sub(x, Sigmoid(x))"), root(node("Sub", node("Sigmoid", x), x))) is None


def test_a_word_is_one_value() -> None:
    x, y = value("x", 2), value("y", 2)
    assert match(parsed("Mul(x, Sigmoid(x))"), root(node("Mul", x, node("Sigmoid", y)))) is None


def test_a_number_is_a_constant_of_that_value() -> None:
    x = value("x", 2)
    assert match(parsed("Pow(x, 2)"), root(node("Pow", x, value("two", number=2)))) is not None
    assert match(parsed("Pow(x, 2)"), root(node("Pow", x, value("three", number=3)))) is None
    assert match(parsed("Pow(x, 2)"), root(node("Pow", x, value("two", 2)))) is None


def test_operands_may_be_left_out_or_many() -> None:
    x, w, b = value("x", 2), value("w", 2), value("b", 2)
    short, whole = (match(parsed("Conv(x, w, b?)"), root(node("Conv", *inputs))) for inputs in ((x, w), (x, w, b)))
    assert short is not None
    assert short.get("b") is None
    assert whole is not None
    assert whole["b"] is b
    several = match(parsed("Concat(*x)"), root(node("Concat", x, w, b)))
    assert several is not None
    assert several.rest == [x, w, b]
