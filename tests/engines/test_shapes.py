"""Executables of single shapes: which ones are made, which ones go, and that answers stay the same."""

from __future__ import annotations

import gc
import threading

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper

from tnn_serving.engines import ENGINES, Options, TensorSpec
from tnn_serving.engines.background import BACKGROUND, Background
from tnn_serving.engines.shapes import COMPILE_AFTER, ShapeCache, ShapeLimits
from tnn_serving.errors import EngineError

pytestmark = pytest.mark.slow

X = TensorSpec("x", np.dtype(np.float32), (None, None))


def cache(engine: str = "openvino", count: int = 4, memory_bytes: int = 1 << 30, weight_bytes: int = 0) -> ShapeCache:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    general = ENGINES[engine].compile(model, Options(threads=1))
    return ShapeCache(general, [X], ShapeLimits(count, memory_bytes), weight_bytes)


def ask(shapes: ShapeCache, *shape: int, times: int = 1) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for _ in range(times):
        np.testing.assert_array_equal(shapes.run({"x": x})["y"], np.maximum(x, 0))


def settle() -> None:
    assert BACKGROUND.settle(60)


def test_a_shape_that_comes_again_is_compiled_for_in_the_background() -> None:
    shapes = cache()
    ask(shapes, 2, 3, times=COMPILE_AFTER - 1)
    settle()
    assert (shapes.counts.hits, shapes.counts.misses, shapes.counts.size) == (0, COMPILE_AFTER - 1, 0)
    ask(shapes, 2, 3)
    settle()
    ask(shapes, 2, 3, times=2)
    assert (shapes.counts.hits, shapes.counts.misses, shapes.counts.size) == (2, COMPILE_AFTER, 1)
    ask(shapes, 3, 2)  # others are answered as before


def test_declared_shapes_are_compiled_for_at_once_and_stay() -> None:
    shapes = cache(count=2)
    shapes.warm({"x": (1, 7)})
    ask(shapes, 1, 7)
    assert (shapes.counts.hits, shapes.counts.misses) == (1, 0)
    for width in (1, 2, 3):
        ask(shapes, 1, width, times=20 * width)
        settle()
    ask(shapes, 1, 7)
    assert shapes.counts.size == 2
    assert shapes.counts.hits >= 2


def test_what_a_shape_would_run_on_can_be_measured_without_keeping_it() -> None:
    x = {"x": np.ones((2, 3), np.float32)}
    shapes = cache()
    made = shapes.fixed(x)
    assert made is not shapes.general
    assert shapes.fixed(x) is not made
    assert shapes.counts.size == 0
    with pytest.raises(EngineError):  # it is compiled for this shape
        made.run({"x": np.ones((3, 2), np.float32)})
    shapes.warm({"x": (2, 3)})
    assert shapes.fixed(x) is shapes.fixed(x)
    assert shapes.concurrent(x) is None
    assert cache(count=0).concurrent(x) is None
    side_by_side = ShapeCache(shapes.general, [X], ShapeLimits(), 0, streams=2).concurrent(x)
    assert side_by_side is not None
    executable, streams = side_by_side
    assert streams == 2
    np.testing.assert_array_equal(executable.run(x)["y"], x["x"])


def test_what_was_compiled_goes_with_its_last_user() -> None:
    """Not only when Python looks for cycles of references, which it seldom does in a server that has settled."""

    def requests() -> int:
        return sum(isinstance(found, ov.InferRequest) for found in gc.get_objects())

    shapes = cache()
    gc.collect()
    gc.disable()
    try:
        before = requests()
        made = shapes.fixed({"x": np.ones((2, 3), np.float32)})
        made.run({"x": np.ones((2, 3), np.float32)})
        assert requests() == before + 1
        del made
        assert requests() == before
    finally:
        gc.enable()


def test_a_full_cache_lets_in_what_comes_more_often_only() -> None:
    shapes = cache(count=2)
    for width in (1, 2):
        ask(shapes, 1, width, times=COMPILE_AFTER)
        settle()
        ask(shapes, 1, width, times=10)
    ask(shapes, 1, 3, times=COMPILE_AFTER + 2)
    settle()
    hits = shapes.counts.hits
    ask(shapes, 1, 1)
    ask(shapes, 1, 2)
    assert shapes.counts.hits == hits + 2  # both are still there
    ask(shapes, 1, 3, times=30)
    settle()
    hits = shapes.counts.hits
    ask(shapes, 1, 3)
    ask(shapes, 1, 2)
    assert shapes.counts.hits == hits + 2  # the one that was used last stayed
    assert shapes.counts.size == 2


def test_memory_is_a_limit_too() -> None:
    shapes = cache(count=10, memory_bytes=250 << 20, weight_bytes=100 << 20)
    for width in (1, 2, 3):
        ask(shapes, 1, width, times=COMPILE_AFTER)
        settle()
    assert shapes.counts.size == 2
    assert shapes.memory_bytes <= 250 << 20


def test_no_limit_means_no_compilation() -> None:
    shapes = cache(count=0)
    ask(shapes, 1, 2, times=10)
    settle()
    assert shapes.counts.size == 0


def test_an_engine_that_gains_nothing_is_left_alone() -> None:
    shapes = cache("onnxruntime")
    shapes.warm({"x": (1, 2)})
    ask(shapes, 1, 2, times=10)
    settle()
    assert shapes.counts.size == 0


def test_large_outputs_go_where_the_caller_wants_them() -> None:
    shapes = cache()
    shapes.warm({"x": (128, 256)})
    x = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)
    memory = np.empty((128, 256), np.float32)
    asked: list[TensorSpec] = []

    def allocate(spec: TensorSpec) -> np.ndarray | None:
        asked.append(spec)
        return memory

    answer = shapes.run({"x": x}, allocate)
    assert [(spec.name, spec.shape) for spec in asked] == [("y", (128, 256))]
    assert answer["y"] is memory
    np.testing.assert_array_equal(memory, np.maximum(x, 0))
    kept = memory.copy()
    np.testing.assert_array_equal(shapes.run({"x": -x})["y"], np.maximum(-x, 0))  # into the engine's own again
    np.testing.assert_array_equal(memory, kept)


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_outlive_later_inferences(engine: str) -> None:
    shapes = cache(engine)
    shapes.warm({"x": (128, 256)})
    x = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)
    answers = [shapes.run({"x": k * x})["y"] for k in range(1, 5)]
    for k, answer in enumerate(answers, 1):
        np.testing.assert_array_equal(answer, np.maximum(k * x, 0))


def test_threads_get_their_own_answers_while_shapes_come_and_go() -> None:
    shapes = cache(count=2)
    wrong: list[tuple[int, int]] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            shape = (int(rng.integers(1, 4)), int(rng.integers(1, 5)))
            x = rng.standard_normal(shape).astype(np.float32)
            if not np.array_equal(shapes.run({"x": x})["y"], np.maximum(x, 0)):
                wrong.append(shape)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle()
    assert not wrong
    assert shapes.counts.size <= 2


def test_background_ends_and_does_nothing_more() -> None:
    background = Background()
    done: list[int] = []
    background.submit(lambda: done.append(1))
    assert background.settle(60)
    background.stop()
    background.submit(lambda: done.append(2))
    assert done == [1]


def test_background_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.submit(lambda: 1 // 0)
    done = threading.Event()
    background.submit(done.set)
    assert done.wait(60)
    assert "ZeroDivisionError" in caplog.text
    background.stop()
