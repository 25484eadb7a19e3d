"""The analysis of a network: complete, and the same after it was written down."""

from __future__ import annotations

import numpy as np
import pytest

from tests.networks import CONVOLUTION, network
from tnn_serving.analysis import Analysis
from tnn_serving.errors import FormatError
from tnn_serving.network.analyse import analyse
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.pictures.conversion import PictureInput


def example() -> Analysis:
    picture = PictureInput(scale=(0.5,), bias=(1.0, 2.0, 3.0))
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    return analyse(TnnNetwork(graph), pictures={"x": picture}, obstacle=None)[0]


def test_inputs_are_those_that_callers_feed() -> None:
    (item,) = example().inputs
    assert (item.name, item.dtype, item.dims) == ("x", np.dtype(np.uint8), (1, 8, 8, 3))
    assert item.known == (None, None, None, 3)


def test_an_analysis_is_the_same_after_it_was_written_down() -> None:
    analysis = example()
    assert Analysis.from_json(analysis.to_json()) == analysis


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "analysis": {"source": 3}}'],
    ids=["empty", "cut off", "a list", "no analysis", "another type"],
)
def test_what_is_no_analysis_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError, match="analysis cannot be read"):
        Analysis.from_json(text)


def test_another_version_is_refused() -> None:
    text = example().to_json().replace(b'"version":1', b'"version":99', 1)
    with pytest.raises(FormatError, match="expected 1, found 99"):
        Analysis.from_json(text)


def test_a_written_type_that_does_not_exist_is_refused() -> None:
    text = example().to_json().replace(b'"|u1"', b'"quux"')
    with pytest.raises(FormatError, match="analysis cannot be read"):
        Analysis.from_json(text)


def test_an_unused_input_is_named(caplog: pytest.LogCaptureFixture) -> None:
    graph = network({"x": (1, 3), "z": (1, 3)}, ["ReLU r 1 1 x y"], ["y"])
    analyse(TnnNetwork(graph))
    assert "input `z` is not used by any layer" in caplog.text
