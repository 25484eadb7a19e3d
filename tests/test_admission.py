"""Which inputs are let through to an engine, and how often the network is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.networks import CONVOLUTION, network
from tnn_serving.admission import Admission
from tnn_serving.emit.limits import Limits
from tnn_serving.engines.base import NO_ARRAYS, Arrays
from tnn_serving.errors import RequestError
from tnn_serving.graph import Graph
from tnn_serving.network.analyse import analyse
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.translate.graph import ShapeCheck


class Asked(TnnNetwork):
    """A network that counts how often it is asked about shapes."""

    def __init__(self, graph: Graph, limits: Limits | None = None) -> None:
        super().__init__(graph, limits or Limits())
        self.questions = 0

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> ShapeCheck:
        self.questions += 1
        return super().check_shapes(shapes, fed, values)


def floats(*dims: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros(dims, np.float32)}


def convolution(obstacle: str | None = None, limits: Limits | None = None) -> tuple[Asked, Admission]:
    asked = Asked(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), limits)
    return asked, Admission(asked, analyse(asked, obstacle=obstacle)[0])


def test_the_default_shapes_are_known_from_the_translation() -> None:
    asked, admission = convolution()
    admission.check(floats(1, 3, 8, 8))
    assert asked.questions == 0


def test_a_shape_is_asked_about_once() -> None:
    asked, admission = convolution()
    for _ in range(3):
        admission.check(floats(1, 3, 16, 9))
    assert asked.questions == 1


def test_more_independent_rows_of_a_known_shape_need_no_question() -> None:
    asked, admission = convolution()
    for rows in (2, 3, 64):
        admission.check(floats(rows, 3, 8, 8))
    assert asked.questions == 0


def test_rows_that_may_depend_on_each_other_are_asked_about() -> None:
    asked, admission = convolution(obstacle="layer 0 mixes rows")
    for rows in (2, 3):
        admission.check(floats(rows, 3, 8, 8))
    assert asked.questions == 2


def test_rows_that_may_need_too_much_memory_are_asked_about_and_refused() -> None:
    _, admission = convolution(limits=Limits(memory_bytes=1e6))
    with pytest.raises(RequestError, match=r"too large|too much memory"):
        admission.check(floats(100_000, 3, 8, 8))


def test_a_batch_without_rows_is_asked_about() -> None:
    asked, admission = convolution()
    admission.check(floats(0, 3, 8, 8))
    assert asked.questions == 1


def test_what_an_engine_refused_is_asked_about_again() -> None:
    asked, admission = convolution()
    feeds = floats(1, 3, 16, 9)
    admission.check(feeds)
    admission.withdraw(feeds)
    admission.check(feeds)
    assert asked.questions == 2


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input `x` is missing"),
        ({**floats(1, 3, 8, 8), "z": np.zeros(1, np.float32)}, "there is no input `z`"),
        (floats(3, 8, 8), "input `x` has another shape: expected \\[any, 3, any, any\\]"),
        (floats(1, 4, 8, 8), "input `x` has another shape"),
        (floats(1, 3, 1, 1), "the network does not take `x` \\[1, 3, 1, 1\\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(feeds: Arrays, message: str) -> None:
    asked = TnnNetwork(network({"x": (1, 3, 8, 8)}, ["Convolution c 1 1 x y 1 3 4 3 3 1 1 0 0 1 -1 1 1 0"], ["y"]))
    admission = Admission(asked, analyse(asked)[0])
    with pytest.raises(RequestError, match=message):
        admission.check(feeds)
