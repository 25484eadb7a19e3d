"""Networks and requests that ask for too much are refused before anything of that size is made."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.networks import CONVOLUTION, network
from tnn_serving.emit.limits import Limits, bytes_text, memory_of_machine_bytes
from tnn_serving.errors import LimitError, RequestError, TnnError
from tnn_serving.graph import Graph, Input
from tnn_serving.layers import make
from tnn_serving.model import Model
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.tensor import DataType, Tensor
from tnn_serving.translate.graph import refusals, translate

GIGABYTE = Limits(memory_bytes=1e9)
MOST_BYTES = 100 << 20


def ints(*numbers: int) -> Tensor:
    return Tensor.of(np.array(numbers, np.int32))


def shaping(line: str, **inputs: Tensor | tuple[int, ...]) -> Graph:
    """One layer without weights: x is float32, other shapes are int32 inputs, tensors are constants."""
    kind, name, n_in, n_out, *rest = line.split()
    a, b = int(n_in), int(n_in) + int(n_out)
    shapes = {"x": (1, 2), **{key: value for key, value in inputs.items() if isinstance(value, tuple)}}
    given = [Input(key, dims, DataType.FLOAT if key == "x" else DataType.INT32) for key, dims in shapes.items()]
    constants = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
    graph = Graph(given, ["y"], [make(kind, name, rest[:a], rest[a:b], rest[b:])])
    graph.constants.update(constants)
    if kind == "ConstantOfShape":
        graph.layers[0].value = Tensor.of(np.array([1], np.float32))  # type: ignore[attr-defined]
    return graph


def refused(graph: Graph, limits: Limits = GIGABYTE) -> str:
    """The refusal of a network, which must come quickly and cost little."""
    tracemalloc.start()
    try:
        with pytest.raises(TnnError) as raised:
            translate(graph, limits=limits)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    return str(raised.value)


@pytest.mark.parametrize(
    "graph",
    [
        shaping("Range r 3 1 a b c y", a=ints(0), b=ints(2**31 - 1), c=ints(1)),
        shaping("Expand e 2 1 x s y", s=ints(2**31 - 1, 2**20, 2)),
        shaping("Expand e 1 1 x y 3 100000 100000 2"),
        shaping("ConstantOfShape k 1 1 s y", s=ints(2**31 - 1, 2**31 - 1, 2**31 - 1)),
        shaping("ConstantOfShape k 1 1 s y", s=ints(100_000, 10_000)),
        shaping("Tile t 1 1 x y 100000 2147483647"),
        shaping("Tile t 2 1 x s y", s=ints(2**31 - 1, 2**31 - 1)),
        shaping("OneHot o 1 1 i y -1 2147483647 0 1", i=ints(1, 2, 3)),
        shaping("Histogram h 1 1 i y 2147483647", i=ints(1, 2, 3)),
        shaping("Upsample u 1 1 x y 1 1e30 1e30 0", x=(1, 2, 3, 4)),
        shaping("Upsample u 1 1 x y 2 1 1 0 2147483647 2147483647", x=(1, 2, 3, 4)),
        shaping("PadV2 p 1 1 x y 4 0 0 0 2147483647 0 0 0 2147483647 0 0", x=(1, 2, 3, 4)),
        shaping("Pooling p 1 1 x y 1 1 1 1 1 0 0 -1 -1 -1 0 1 2147483647 2147483647", x=(1, 2, 3, 4)),
        shaping("ReLU r 1 1 x y", x=(2**31 - 1, 2**31 - 1)),
        shaping("ReLU r 1 1 x y", x=(1,) * 100_000),
        shaping("ReLU r 1 1 x y", x=(1, 3, 20_000, 20_000)),
        shaping("Unsqueeze u 1 1 x y 60 " + "0 " * 60),
    ],
    ids=lambda graph: f"{graph.layers[0].type}-{len(graph.layers[0].inputs)}",
)  # fmt: skip
def test_what_expands_beyond_all_bounds_is_refused(graph: Graph) -> None:
    assert any(word in refused(graph) for word in ("too large", "too many", "do not fit", "too much"))


def test_tensors_that_fit_alone_may_be_too_much_together() -> None:
    graph = network(
        {"x": (1, 3, 64, 64)},
        [*CONVOLUTION, *(f"Sigmoid s{k} 1 1 y z{k}" for k in range(4)), "Add a 4 1 z0 z1 z2 z3 w"],
        ["w"],
    )
    together = translate(graph).activations_bytes
    assert together > 5 * 4 * 4 * 64 * 64
    assert "too much memory" in refused(graph, Limits(memory_bytes=together - 1))
    assert translate(graph, limits=Limits(memory_bytes=together + 1000)).outputs


def test_each_new_shape_is_held_against_the_limit() -> None:
    model = Model.of(TnnNetwork(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), Limits(memory_bytes=1e6)))
    assert model.run({"x": np.ones((1, 3, 16, 16), np.float32)})["y"].shape == (1, 4, 16, 16)
    with pytest.raises(RequestError, match="memory_limit_bytes"):
        model.run({"x": np.ones((1, 3, 500, 100), np.float32)})
    assert model.run({"x": np.ones((2, 3, 16, 16), np.float32)})["y"].shape == (2, 4, 16, 16)


@pytest.mark.parametrize("line", ["Expand e 2 1 x s y", "Tile t 2 1 x s y"])
def test_sizes_that_a_request_gives_are_held_against_the_limit(line: str) -> None:
    model = Model.of(TnnNetwork(shaping(line, s=(2,)), Limits(memory_bytes=1e6)))
    x = np.ones((1, 2), np.float32)
    assert model.run({"x": x, "s": np.array([3, 2], np.int32)})["y"].shape[0] == 3
    for sizes in ([1_000_000, 2], [2**31 - 1, 2]):
        with pytest.raises(RequestError, match="too large"):
            model.run({"x": x, "s": np.array(sizes, np.int32)})


def test_loading_ends_at_its_deadline() -> None:
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    with pytest.raises(LimitError, match="load_timeout_s"):
        Model.of(TnnNetwork(graph, Limits(deadline_s=time.monotonic() - 1)))


def test_every_layer_at_fault_is_found() -> None:
    lines = ("Nothing a 1 1 x y", "Permute p 1 1 x z 2 0 0", "Sigmoid s 1 1 z w", "Absent b 1 1 w v")
    layers = [make(kind, name, [x], [y], rest) for kind, name, _, _, x, y, *rest in map(str.split, lines)]
    found = refusals(Graph([Input("x", (1, 3, 8, 8))], ["v"], layers))
    assert [error.where[-1] for error in found] == [
        "layer 0 `a` (Nothing)",
        "layer 1 `p` (Permute)",
        "layer 3 `b` (Absent)",
    ]
    assert refusals(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])) == []


def test_memory_of_machine_and_of_container(tmp_path: Path) -> None:
    whole = memory_of_machine_bytes([tmp_path / "absent"])
    assert whole > 2**20
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    assert memory_of_machine_bytes([limit]) == 2**20
    limit.write_text("max\n")
    assert memory_of_machine_bytes([limit]) == whole


def test_bytes_for_people() -> None:
    assert [bytes_text(n) for n in (0, 999, 20_000, 1.5e9)] == ["0 bytes", "999 bytes", "20 kB", "1.5 GB"]
