"""Guards keep operands in range on every engine, and cost nothing where there is nothing to guard."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tnn_serving as ts
from tests.engines.openvino.models import model
from tnn_serving.emit.limits import Limits
from tnn_serving.engines import ENGINES, Options
from tnn_serving.errors import EngineError, RequestError
from tnn_serving.guards.checks import GUARDS, Checks, GraphCheck, InputCheck, Limit
from tnn_serving.guards.executable import GuardedExecutable, compile_guarded, export_guarded, restore_guarded
from tnn_serving.guards.graph import guard
from tnn_serving.model import Model
from tnn_serving.network.formats import open_network

X = np.arange(8, dtype=np.float32)
TABLE = "g (int64[n] i) => (float[n] y) { y = Gather (x, i) }"
COMPUTED = "g (float[n] x, int64[k] i) => (float[k] y) { j = Add (i, one) y = Gather (x, j) }"
ONE = np.array([1])

both = pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])


def guarded(text: str, **stored: np.ndarray) -> tuple[onnx.ModelProto, Checks]:
    made = guard(model(text, **stored), 1 << 30)
    return made.model, made.checks


def test_a_network_without_such_operators_is_left_as_it_is() -> None:
    made = model("g (float[n, 4] x) => (float[n, 4] y) { a = Relu (x) y = Softmax (a) }")
    before = made.SerializeToString()
    found = guard(made, 1 << 30)
    assert found.model.SerializeToString() == before
    assert found.checks == Checks()
    for engine in ("openvino", "onnxruntime"):
        assert not isinstance(compile_guarded(ENGINES[engine], found, Options()), GuardedExecutable)


def test_an_input_is_checked_before_and_the_graph_stays() -> None:
    made, checks = guarded(TABLE, x=X)
    assert [node.op_type for node in made.graph.node] == ["Gather"]
    assert checks.before == (InputCheck("i", "node `y` (Gather)", Limit(-8), Limit(7)),)


def test_a_stored_index_is_checked_at_the_load() -> None:
    with pytest.raises(EngineError, match=r"`i` is out of range for node `y` \(Gather\): expected -8 to 7, found 8"):
        guarded("g (float[8] x) => (float[1] y) { y = Gather (x, i) }", i=np.array([8]))


def test_a_stored_index_is_checked_against_the_dims_of_a_request() -> None:
    _, checks = guarded("g (float[n] x) => (float[1] y) { y = Gather (x, i) }", i=np.array([5]))
    checks.check_inputs({"x": X})
    for rows, limits in ((5, "-5 to 4"), (0, "none, since there is nothing to choose from")):
        with pytest.raises(RequestError, match=rf"`i` is out of range for .*: expected {limits}, found 5"):
            checks.check_inputs({"x": X[:rows]})


@both
def test_a_computed_index_is_limited_in_the_graph(engine: str) -> None:
    made, checks = guarded(COMPUTED, one=ONE)
    assert checks.behind == (GraphCheck("j", "node `y` (Gather)"),)
    executable = ENGINES[engine].compile(made, Options())
    answer = executable.run({"x": X, "i": np.array([-100, 3, 100])})
    assert answer["y"].tolist() == [0, 4, 7]
    assert answer[GUARDS].tolist() == [-99, -8, 101, 7]


@both
def test_what_outputs_do_not_need_is_not_guarded(engine: str) -> None:
    text = "g (float[n] x, int64[k] i) => (float[k] y, float[n] z) { j = Add (i, one) y = Gather (x, j) z = Relu (x) }"
    loaded = ts.load(model(text, one=ONE), engine)
    bad = {"x": X, "i": np.array([100])}
    assert loaded.run(bad, ["z"])["z"].tolist() == X.tolist()
    with pytest.raises(RequestError, match="`j` is out of range"):
        loaded.run(bad)


@both
def test_guards_are_kept_in_what_is_exported(engine: str) -> None:
    made = guard(model(COMPUTED, one=ONE), 1 << 30)
    exported = export_guarded(compile_guarded(ENGINES[engine], made, Options()), made)
    restored = restore_guarded(ENGINES[engine], lambda: exported, Options())
    assert [spec.name for spec in restored.outputs] == ["y"]
    assert restored.run({"x": X, "i": np.array([2])})["y"] == [3]
    with pytest.raises(RequestError, match=r"`j` is out of range for .*: expected -8 to 7, found 8"):
        restored.run({"x": X, "i": np.array([7])})


@both
def test_guards_hold_where_single_shapes_are_compiled_for(engine: str) -> None:
    made = compile_guarded(ENGINES[engine], guard(model(COMPUTED, one=ONE), 1 << 30), Options(threads=2))
    fixed = made.at({"x": (8,), "i": (1,)}) or made
    for executable in (fixed, fixed.concurrent(2) or fixed):
        with pytest.raises(RequestError, match="expected -8 to 7, found -9"):
            executable.run({"x": X, "i": np.array([-10])})


@both
def test_a_size_that_a_request_decides_keeps_within_the_memory(engine: str) -> None:
    made = model("g (float[2] x, int64[1] r) => (float[n] y) { y = Tile (x, r) }")
    loaded = Model.of(open_network(made.SerializeToString(), Limits(1 << 20)), engine=engine)
    assert loaded.run({"x": X[:2], "r": np.array([1000])})["y"].shape == (2000,)
    sentence = "asks node `Tile_0` \\(Tile\\) for too large an output: expected at most 262143 elements, found 2000000"
    with pytest.raises(RequestError, match=sentence):
        loaded.run({"x": X[:2], "r": np.array([10**6])})


def test_only_an_engine_that_checks_runs_what_cannot_be_guarded() -> None:
    made = model(
        """g (float[8] x, int64[1] i, bool c) => (float[1] y) { y = If (c) <
        then_branch = t () => (float[1] p) { p = Gather (x, i) },
        else_branch = s () => (float[1] q) { q = Slice (x, zero, one) }> }""",
        zero=np.array([0]),
        one=ONE,
    )
    with pytest.raises(EngineError, match=r"\(Gather\): OpenVINO does not refuse what is out of range"):
        ts.load(made, "openvino")
    loaded = ts.load(made)
    assert loaded.engine == "onnxruntime"
    feeds = {"x": X, "c": np.array(True)}
    assert loaded.run({**feeds, "i": np.array([3])})["y"] == [3]
    with pytest.raises(RequestError, match="out of data bounds"):
        loaded.run({**feeds, "i": np.array([8])})


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Dropout (x)",
        "y = Identity (x)",
        "y = Transpose <perm = [0, 1]> (x)",
        "y = Cast <to = 1> (x)",
        "y = Reshape (x, same)",
        "a = Dropout (x) y = Identity (a)",
        "a = Identity (x) b = Cast <to = 1> (a) y = Dropout (b)",
        "a = Transpose <perm = [1, 0]> (x) y = Transpose <perm = [1, 0]> (a)",
        "a = Dropout (x) y = Relu (a)",
    ],
)
@pytest.mark.parametrize("dims", ["3, 4", "n, m"])
@both
def test_nodes_that_an_engine_leaves_out_give_their_input(engine: str, nodes: str, dims: str) -> None:
    used = {"same": np.array([3, 4])} if "same" in nodes else {}
    loaded = ts.load(model(f"g (float[{dims}] x) => (float[{dims}] y) {{ {nodes} }}", **used), engine)
    for seed in range(3):
        x = np.random.default_rng(seed).random((3, 4), np.float32)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], x)


def test_an_answer_in_another_shape_than_the_networks_does_not_leave() -> None:
    loaded = ts.load(model("g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }"), "onnxruntime")
    (cache,) = loaded.shape_caches()
    cache.general = compile_guarded(
        ENGINES["onnxruntime"],
        guard(model("g (float[n, 4] x) => (float[n, 2] y) { y = Slice (x, b, e, a) }", b=ONE * 0, e=ONE * 2, a=ONE), 1),
        Options(),
    )
    with pytest.raises(
        (EngineError, RequestError), match=r"answers `y` in another shape: expected \[-1, 4\], found \[3, 2\]"
    ):
        loaded.run({"x": np.ones((3, 4), np.float32)})
