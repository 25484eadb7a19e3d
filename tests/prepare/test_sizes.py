"""Networks that would need too much memory: refused before anything of that size is made, or tried with less."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tnn_serving as ts
from tests.networks import network
from tests.onnx_models import model, value, write
from tnn_serving.config.text import read_config
from tnn_serving.emit.limits import Limits
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.shapes import ShapeCache
from tnn_serving.errors import TnnError
from tnn_serving.model import Model
from tnn_serving.network.formats import open_network
from tnn_serving.prepare.batching import check_rows
from tnn_serving.serving.servable import Servable

pytestmark = pytest.mark.slow

GIGABYTE = 'parameters [{ key: "memory_limit_bytes" value: { string_value: "1GB" } }]\n'
SMALL_BYTES = 16 << 20
"""Far below any of the sizes that are refused here, and above all that a refusal takes."""


def relu(*dims: int | str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    return model([node], [value("x", dims, kind)], [value("y", dims, kind)], opsets={"": 21}, ir=10)


def inside(*nodes: onnx.NodeProto, **stored: np.ndarray) -> onnx.ModelProto:
    """A network of 4 numbers that adds something large to them."""
    last = helper.make_node("Add", ["x", "sum"], ["y"])
    return model([*nodes, last], {"x": ["n", 4]}, {"y": ["n", 4]}, stored)


SUM = helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0)
HUGE: dict[str, tuple[onnx.ModelProto, str]] = {
    "2^31 columns": (relu("n", 2**31), ""),
    "2^28 columns": (relu("n", 2**28), ""),
    "no free dim": (relu(4, 2**28), ""),
    "bytes": (relu("n", 2**30, kind=TensorProto.INT8), ""),
    "input and output together": (relu("n", 2**27 + 2**20), ""),
    "declared": (relu("n", "w"), 'input [{ name: "x" data_type: TYPE_FP32 dims: [ -1, 268435456 ] }]'),
    "declared of a batch": (
        relu("n", "w"),
        'max_batch_size: 8 input [{ name: "x" data_type: TYPE_FP32 dims: [ 268435456 ] }]',
    ),
    "warmed": (relu("n", "w"), 'parameters [{ key: "warm_shapes" value: { string_value: "x=1000x1000000" } }]'),
    "preferred": (
        relu("n", 1000),
        "max_batch_size: 1000000 dynamic_batching { preferred_batch_size: [ 1000000 ] }",
    ),
    "pixels": (
        relu("n", 3, "h", "w"),
        'input [{ name: "x" data_type: TYPE_UINT8 dims: [ 1, 20000, 20000, 3 ] }]',
    ),
    "an output": (
        model(
            [helper.make_node("MatMul", ["x", "t"], ["y"])], {"x": ["n", 50000, 1], "t": ["n", 1, 20000]}, {"y": None}
        ),
        "",
    ),
    "inside": (
        inside(helper.make_node("Expand", ["o", "s"], ["a"]), SUM, o=np.ones(1, np.float32), s=np.array([2**30])),
        "",
    ),
    "a constant of a shape": (inside(helper.make_node("ConstantOfShape", ["s"], ["a"]), SUM, s=np.array([2**30])), ""),
    "a range": (
        inside(
            helper.make_node("Range", ["b", "e", "d"], ["a"]), SUM, b=np.float32(0), e=np.float32(1e9), d=np.float32(1)
        ),
        "",
    ),
}


@contextmanager
def taking_at_most(most_bytes: int) -> Iterator[None]:
    """NumPy's arrays and Python's objects; what an engine allocates is not among them."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HUGE)
def test_what_is_too_large_is_refused_before_it_is_made(tmp_path: Path, name: str) -> None:
    made, config = HUGE[name]
    write(made, tmp_path / "m" / "1")
    text = GIGABYTE + config
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    ts.load(relu("n", 4))  # what is imported and kept is not counted
    with taking_at_most(SMALL_BYTES), pytest.raises(TnnError, match=r"too large|too much memory") as caught:
        Servable.open(tmp_path / "m", read_config(text), version=1)
    assert "memory_limit_bytes" in str(caught.value) or "2147483647 elements" in str(caught.value)


def test_a_network_of_tnn(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, ["ReLU r 1 1 x y"], ["y"])
    ts.write_model(graph, tmp_path / "m" / "1" / "a.tnnproto", tmp_path / "m" / "1" / "a.tnnmodel")
    text = GIGABYTE + 'input [{ name: "x" data_type: TYPE_FP32 dims: [ -1, 3, 10000, 10000 ] }]'
    with taking_at_most(SMALL_BYTES), pytest.raises(TnnError, match=r"too large|too much memory"):
        Servable.open(tmp_path / "m", read_config(text), version=1)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of the inputs of each inference."""
    seen: list[int] = []
    run = ShapeCache.run

    def noted(self: ShapeCache, feeds: Arrays, *more: Any) -> dict[str, np.ndarray]:
        seen.append(sum(array.nbytes for array in feeds.values()))
        return run(self, feeds, *more)

    monkeypatch.setattr(ShapeCache, "run", noted)
    return seen


def test_free_dims_count_at_their_smallest(fed: list[int]) -> None:
    """At 256 for each, or 224, it would be too large; at 16 it is not."""
    limits = Limits(memory_bytes=1e6)
    for dims, shape in ((("n", "a", "b", "c", "d"), (1, 16, 16, 16, 16)), (("n", 3, "h", "w"), (1, 3, 128, 128))):
        loaded = Model.of(open_network(relu(*dims), limits))
        assert loaded.default_shapes["x"] == shape
    assert max(fed) <= 1e6
    with pytest.raises(TnnError, match=r"too large|too much memory"):
        Model.of(open_network(relu("n", "a", 2**18), limits))


def test_rows_without_memory_for_two_are_not_joined(fed: list[int], tmp_path: Path) -> None:
    limits = Limits(memory_bytes=20e6)
    loaded = Model.of(open_network(relu("n", 2**21), limits))
    assert "there is no memory for two rows" in str(check_rows(loaded, ["y"]))
    assert max(fed) == 4 * 2**21
    write(relu("n", 2**21), tmp_path / "m" / "1")
    text = 'max_batch_size: 4 parameters [{ key: "memory_limit_bytes" value: { string_value: "20MB" } }]'
    servable = Servable.open(tmp_path / "m", read_config(text), version=1)
    assert "no memory for two rows" in str(servable.model.analysis.obstacle)
    servable.close()
    assert max(fed) == 4 * 2**21


def test_joined_rows_stay_within_the_memory(fed: list[int], tmp_path: Path) -> None:
    """A product with a large matrix is faster the more rows are joined."""
    weights = np.zeros((1024, 1024), np.float32)
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 1024]}, {"y": ["n", 1024]}, {"w": weights}
    )
    write(made, tmp_path / "m" / "1")
    limit = weights.nbytes + 5 * 2 * 4096
    text = f'max_batch_size: 64 parameters [{{ key: "memory_limit_bytes" value: {{ string_value: "{limit}" }} }}]'
    servable = Servable.open(tmp_path / "m", read_config(text), version=1)
    assert servable.model.analysis.obstacle is None
    assert servable.joins <= 4
    servable.close()
    assert max(fed) <= 5 * 4096
