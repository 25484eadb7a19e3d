"""Inferences alone and beside others: which executable runs them, and that answers stay the same."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tnn_serving.engines import ENGINES, Executable, NodeTime, Options, Shapes, TensorSpec
from tnn_serving.engines.background import BACKGROUND
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.concurrency import ADD_AFTER, QUIET_AFTER, ConcurrentExecutable
from tnn_serving.engines.shapes import ShapeCache, ShapeLimits
from tnn_serving.errors import EngineError

pytestmark = pytest.mark.slow

SIZE = 64
X = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
W = np.random.default_rng(1).integers(-4, 4, (SIZE, SIZE)).astype(np.float32)


def network() -> onnx.ModelProto:
    """y = x · W."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZE])
    w = helper.make_tensor("w", TensorProto.FLOAT, W.shape, W.tobytes(), raw=True)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def compiled(engine: str = "openvino") -> Executable:
    return ENGINES[engine].compile(network(), Options(threads=2, streams=1))


class Watched:
    """An executable whose inferences wait at a gate, and are counted."""

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        self.engine = executable.engine
        self.runs = 0
        self.inside = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.executable.outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        self.runs += 1
        self.inside.release()
        assert self.gate.wait(60)
        return self.executable.run(feeds, into)

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        return self.executable.profile(feeds, runs)

    def at(self, shapes: Shapes) -> Executable | None:
        return self.executable.at(shapes)

    def concurrent(self, streams: int) -> Executable | None:
        return self.executable.concurrent(streams)


class Pair:
    """An executable for one inference or two, and the two it is made of."""

    def __init__(self) -> None:
        self.alone = Watched(compiled())
        self.many: list[Watched] = []
        self.both = ConcurrentExecutable(self.alone, 2, self.make)

    def make(self) -> Executable:
        made = self.alone.concurrent(2)
        assert made is not None
        self.many.append(Watched(made))
        return self.many[0]

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            np.testing.assert_allclose(self.both.run({"x": X})["y"], X @ W, rtol=1e-4, atol=1e-3)

    def beside_another(self, times: int) -> None:
        """Asks while another inference is held up, which is alone until enough have met."""
        held = self.many[0] if self.many else self.alone
        before = held.inside
        held.inside = threading.Semaphore(0)
        held.gate.clear()
        with ThreadPoolExecutor(times + 1) as pool:
            asked = [pool.submit(self.ask)]
            assert held.inside.acquire(timeout=60)
            asked += [pool.submit(self.ask) for _ in range(times)]
            for _ in range(times):
                assert held.inside.acquire(timeout=60)
            held.gate.set()
            for one in asked:
                one.result()
        held.inside = before


def test_inferences_that_come_one_by_one_get_all_threads() -> None:
    pair = Pair()
    pair.ask(3 * ADD_AFTER)
    assert BACKGROUND.settle(60)
    assert (pair.alone.runs, pair.many) == (3 * ADD_AFTER, [])


def test_inferences_that_meet_run_side_by_side_until_they_no_longer_do() -> None:
    pair = Pair()
    pair.beside_another(ADD_AFTER)
    assert BACKGROUND.settle(60)
    (many,) = pair.many
    assert (pair.alone.runs, many.runs) == (ADD_AFTER + 1, 0)
    pair.beside_another(5)
    assert (pair.alone.runs, many.runs) == (ADD_AFTER + 1, 6)
    pair.ask(2 * QUIET_AFTER)
    assert many.runs == 6 + QUIET_AFTER - 1
    assert pair.alone.runs == ADD_AFTER + 1 + QUIET_AFTER + 1


def test_what_cannot_be_compiled_for_many_goes_on_alone() -> None:
    alone = Watched(compiled())

    def refuse() -> Executable:
        raise EngineError("not today")

    pair = Pair()
    pair.alone, pair.both = alone, ConcurrentExecutable(alone, 2, refuse)
    pair.beside_another(ADD_AFTER)
    assert BACKGROUND.settle(60)
    pair.beside_another(3)
    assert alone.runs == ADD_AFTER + 1 + 4


def test_onnxruntime_shares_its_threads_by_itself() -> None:
    assert compiled("onnxruntime").concurrent(2) is None


def overlap(shapes: ShapeCache) -> None:
    """Inferences from several threads, until some have met."""
    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(lambda _: shapes.run({"x": X})["y"].copy(), range(200)):
                np.testing.assert_allclose(answer, X @ W, rtol=1e-4, atol=1e-3)
        assert BACKGROUND.settle(60)


@pytest.mark.parametrize("limit_bytes", [1 << 30, 0])
def test_memory_of_the_second_compilation_counts(limit_bytes: int) -> None:
    weight_bytes = W.nbytes
    x = TensorSpec("x", np.dtype(np.float32), (None, SIZE))
    shapes = ShapeCache(compiled(), [x], ShapeLimits(4, limit_bytes), weight_bytes, streams=2)
    shapes.warm({"x": X.shape})
    before = shapes.memory_bytes
    assert before >= weight_bytes
    overlap(shapes)
    assert (shapes.memory_bytes - before >= weight_bytes) == bool(limit_bytes)


def test_nothing_is_compiled_for_one_that_is_gone() -> None:
    pair = Pair()
    hold, held = threading.Event(), weakref.ref(pair.both)
    BACKGROUND.submit(lambda: hold.wait(60) and None)
    pair.beside_another(ADD_AFTER)
    made = pair.many
    del pair
    gc.collect()
    assert held() is None
    hold.set()
    assert BACKGROUND.settle(60)
    assert made == []
