"""The hint of an error about a name that does not exist."""

from __future__ import annotations

from typing import Literal

import pytest

from tnn_serving.errors import ConfigError
from tnn_serving.nearest import LISTED, choice, did_you_mean, listed, nearest


@pytest.mark.parametrize(
    ("given", "known", "wanted"),
    [
        ("thread", ["threads", "streams", "profile"], "threads"),
        ("OpenVINO", ["auto", "openvino", "onnxruntime"], "openvino"),
        ("onnx", ["auto", "openvino", "onnxruntime"], "onnxruntime"),
        ("raw-int8", ["int8", "raw_int8"], "raw_int8"),
        ("conv1_bn", ["conv1_bn1", "conv1", "input"], "conv1_bn1"),
    ],
)
def test_the_best_comes_first(given: str, known: list[str], wanted: str) -> None:
    assert nearest(given, known)[0] == wanted


def test_names_that_differ_in_case_alone_are_all_given() -> None:
    assert nearest("data", ["Data", "DATA", "other"]) == ["Data", "DATA"]


@pytest.mark.parametrize("given", ["tensorrt", "", "x"])
def test_nothing_is_guessed(given: str) -> None:
    assert did_you_mean(given, ["auto", "openvino", "onnxruntime"]) is None


def test_words() -> None:
    assert did_you_mean("http-prot", ["http-port", "grpc-port"], "--") == "did you mean `--http-port`?"
    assert did_you_mean("blobs", ["blob", "blobs_1", "blobs_10"]) == "did you mean `blob`, `blobs_1` or `blobs_10`?"


def test_many_names_are_counted() -> None:
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(k) for k in range(LISTED + 1)]) == f"one of {LISTED + 1} names"


def test_choice() -> None:
    assert choice(Literal["left", "right"], "left", "side") == "left"
    with pytest.raises(ConfigError) as error:
        choice(Literal["left", "right"], "rigth", "side")
    assert str(error.value) == "unknown side: expected left, right, found rigth (did you mean `right`?)"
