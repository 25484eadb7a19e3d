"""Which dims callers may choose, and how few walks tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.networks import CONVOLUTION, network
from tnn_serving.translate import free_dims as module
from tnn_serving.translate.free_dims import free_dims


def axes(inputs: dict[str, Sequence[int]], layers: Sequence[str], **constants: np.ndarray) -> dict[str, str]:
    """The free dims of each input, as a word of f (free) and - (not)."""
    found = free_dims(network(inputs, layers, ["y"], constants=constants)).axes
    return {name: "".join("f" if free else "-" for free in dims) for name, dims in found.items()}


def test_filters_fix_the_channels() -> None:
    assert axes({"x": (1, 3, 8, 8)}, CONVOLUTION) == {"x": "f-ff"}


def test_everything_is_free_where_no_weights_are() -> None:
    assert axes({"x": (1, 3, 8, 8)}, ["ReLU r 1 1 x y"]) == {"x": "ffff"}


def test_a_matrix_fixes_the_rest() -> None:
    assert axes({"x": (1, 12)}, ["InnerProduct p 1 1 x y 4 1 0 1"]) == {"x": "f-"}


def test_a_flattening_in_front_of_a_matrix_fixes_height_and_width() -> None:
    layers = ["Flatten f 1 1 x a 1", "InnerProduct p 1 1 a y 4 1 0 1"]
    assert axes({"x": (1, 3, 4, 4)}, layers) == {"x": "f---"}


def test_a_batch_that_two_inputs_share_is_free() -> None:
    layers = ["Concat c 2 1 x z y 1"]
    assert axes({"x": (1, 3, 4, 4), "z": (1, 2, 4, 4)}, layers) == {"x": "ffff", "z": "ffff"}


def test_height_and_width_that_must_be_equal_are_not_free() -> None:
    layers = ["Permute t 1 1 x a 4 0 1 3 2", "Add s 2 1 x a y -1"]
    assert axes({"x": (1, 3, 4, 4)}, layers) == {"x": "ff--"}


def test_a_pyramid_takes_multiples() -> None:
    layers = [
        "Pooling p 1 1 x a 0 2 2 2 2 0 0 -1 -1 -1 0",
        "Upsample u 1 1 a b 1 2 2 0 0 0",
        "Add s 2 1 x b y -1",
    ]
    assert axes({"x": (1, 3, 8, 8)}, layers) == {"x": "ffff"}


@pytest.mark.parametrize(
    ("layers", "walks"), [(CONVOLUTION, 2), (["ReLU r 1 1 x y"], 5)], ids=["filters", "nothing fixes the channels"]
)
def test_few_walks_tell(layers: Sequence[str], walks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("translate", "check_shapes"):
        real = getattr(module, name)

        def counted(*args: object, _real: object = real, _name: str = name, **keywords: object) -> object:
            made.append(_name)
            return _real(*args, **keywords)  # type: ignore[operator]

        monkeypatch.setattr(module, name, counted)
    free_dims(network({"x": (1, 3, 8, 8)}, layers, ["y"]))
    assert len(made) == walks


def test_stored_inputs_are_tried_only_where_they_are_fed() -> None:
    graph = network(
        {"x": (1, 4), "z": (1, 4)}, ["Add a 2 1 x z y -1"], ["y"], constants={"z": np.ones((1, 4), np.float32)}
    )
    assert free_dims(graph).axes == {"x": (True, False)}
    assert free_dims(graph, ["z"]).axes == {"x": (True, True), "z": (True, True)}
