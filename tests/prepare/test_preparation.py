"""Models that workers prepare answer as those that were loaded here, whatever comes after the load."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import parser

import tnn_serving as ts
from tests.check.test_hostile_models import endless_loop, nested_functions
from tests.networks import CONVOLUTION, network
from tests.onnx_models import model
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.engines.background import BACKGROUND
from tnn_serving.errors import ConfigError, LimitError, RequestError, TnnError, UnsupportedLayer
from tnn_serving.graph import Graph
from tnn_serving.prepare.loaded import Loaded
from tnn_serving.prepare.loading import load_model
from tnn_serving.prepare.model_version import ModelVersion
from tnn_serving.prepare.opened import PreparedSession
from tnn_serving.prepare.preparation import PREPARED_STORE, Preparation
from tnn_serving.prepare.prepared import key_of
from tnn_serving.tensor import Tensor

pytestmark = pytest.mark.slow

DEADLINE_S = 120.0
FREE = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
OTHER = network({"x": (1, 3, 8, 8)}, ["ReLU r 1 1 x y"], ["y"])
SIZED = """<ir_version: 10, opset_import: ["": 17]>
g (float[n, 3] x, int64[1] k) => (float[n, a] y, int64[n, a] i) { y, i = TopK (x, k) }"""


@pytest.fixture(scope="module")
def preparation() -> Iterator[Preparation]:
    made = Preparation()
    yield made
    made.close()


def write(folder: Path, graph: Graph = FREE) -> Path:
    version = folder / "1"
    version.mkdir(parents=True)
    ts.write_model(graph, version / "net.tnnproto", version / "net.tnnmodel")
    return folder


def write_onnx(folder: Path, source: onnx.ModelProto | str) -> Path:
    (folder / "1").mkdir(parents=True)
    made = parser.parse_model(source) if isinstance(source, str) else source
    onnx.save(made, folder / "1" / "model.onnx")
    return folder


def prepared(preparation: Preparation, folder: Path, config: dict[str, Any] | None = None, **options: str) -> Loaded:
    read = ModelConfig.read({"name": folder.name, **(config or {})})
    return preparation.load(ModelVersion(folder, read, 1, options=options))


def here(folder: Path, config: dict[str, Any] | None = None, **options: str) -> Loaded:
    read = ModelConfig.read({"name": folder.name, **(config or {})})
    return load_model(ModelVersion(folder, read, 1, options=options))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(first: Loaded, second: Loaded, feeds: dict[str, np.ndarray]) -> None:
    outputs = first.configured.outputs
    wanted, got = first.model.infer(feeds, outputs), second.model.infer(feeds, outputs)
    for name in outputs:
        np.testing.assert_array_equal(got[name], wanted[name])


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", ["tnn", "onnx"])
def test_it_is_what_a_load_in_this_process_gives(
    preparation: Preparation, tmp_path: Path, kind: str, engine: str
) -> None:
    folder = write(tmp_path / "m") if kind == "tnn" else write_onnx(tmp_path / "m", ts.to_onnx(FREE))
    made, wanted = (load(folder, engine=engine) for load in (lambda f, **o: prepared(preparation, f, **o), here))
    assert made.configured.config == wanted.configured.config
    assert made.configured.outputs == wanted.configured.outputs
    assert made.model.analysis == wanted.model.analysis
    assert made.model.engine == engine
    assert made.joined_rows >= 1
    for shape in ((1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 11, 5)):
        assert_same(wanted, made, {"x": numbers(*shape)})


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_values_may_decide_what_fits(preparation: Preparation, tmp_path: Path, engine: str) -> None:
    """The memory for a shape is not known before its values are."""
    source = """<ir_version: 10, opset_import: ["": 17]>
    g (float[1, n] x, int32[2] s) => (float[a, b] y) { w = Cast <to = 7> (s) y = Expand (x, w) }"""
    folder = write_onnx(tmp_path / "m", source)
    made, wanted = (load(folder, engine=engine) for load in (lambda f, **o: prepared(preparation, f, **o), here))
    for rows in (1, 3, 2):
        assert_same(wanted, made, {"x": numbers(1, 4), "s": np.array([rows, 4], np.int32)})
    with pytest.raises(RequestError, match=r"too large|too much memory"):
        made.model.infer({"x": numbers(1, 4), "s": np.array([2**30, 4], np.int32)}, made.configured.outputs)


def test_int8_layers_are_run_in_the_same_form(preparation: Preparation, tmp_path: Path) -> None:
    layers = [
        "QuantizedConvolution c0 1 1 x a 1 3 4 3 3 1 1 1 1 1 -1 1 1 1",
        "QuantizedConvolution c1 1 1 a y 1 4 4 3 3 2 2 1 1 1 -1 1 1 0",
    ]
    folder = write(tmp_path / "m", network({"x": (1, 3, 8, 8)}, layers, ["y"]))
    made, wanted = prepared(preparation, folder, int8="exact"), here(folder, int8="exact")
    assert made.model.int8_form == wanted.model.int8_form == "exact"
    assert_same(wanted, made, {"x": numbers(1, 3, 8, 8)})


def test_shapes_that_the_network_does_not_take_are_the_callers_fault(preparation: Preparation, tmp_path: Path) -> None:
    made = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        g (float[1, 3, h, w] x) => (float[1, 48] y) { f = Flatten (x) y = Add (f, c) }"""
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 48), np.float32), "c"))
    folder = write_onnx(tmp_path / "m", made)
    loaded = prepared(preparation, folder)
    loaded.model.infer({"x": numbers(1, 3, 4, 4)}, ("y",))
    with pytest.raises(RequestError, match=r"the network does not take `x` \[1, 3, 5, 5\]") as caught:
        loaded.model.infer({"x": numbers(1, 3, 5, 5)}, ("y",))
    assert "tnn-serving-" not in str(caught.value)
    loaded.model.infer({"x": numbers(1, 3, 8, 2)}, ("y",))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_shapes_that_come_often_are_compiled_for_by_a_worker(
    preparation: Preparation, tmp_path: Path, engine: str
) -> None:
    loaded = prepared(preparation, write(tmp_path / "m"), engine=engine)
    x = numbers(1, 3, 10, 10)
    first = loaded.model.infer({"x": x}, ("y",))["y"].copy()
    for _ in range(3):
        loaded.model.infer({"x": x}, ("y",))
    assert BACKGROUND.settle(DEADLINE_S)
    (cache,) = loaded.model.shape_caches()
    hits = cache.counts.hits
    np.testing.assert_allclose(loaded.model.infer({"x": x}, ("y",))["y"], first, rtol=1e-5, atol=1e-5)
    assert cache.counts.hits == hits + (engine == "openvino")


def test_optional_inputs_are_compiled_for_by_a_worker(preparation: Preparation, tmp_path: Path) -> None:
    graph = network({"x": (1, 3, 4, 4), "h": (1, 3, 4, 4)}, ["Add a 2 1 x h y -1"], ["y"])
    graph.constants["h"] = Tensor.of(np.full((1, 3, 4, 4), 5, np.float32))
    loaded = prepared(preparation, write(tmp_path / "m", graph))
    x = numbers(1, 3, 4, 4)
    np.testing.assert_array_equal(loaded.model.infer({"x": x}, ("y",))["y"], x + 5)
    np.testing.assert_array_equal(loaded.model.infer({"x": x, "h": x}, ("y",))["y"], x + x)


def test_inputs_that_decide_a_size_are_asked_about_with_their_values(preparation: Preparation, tmp_path: Path) -> None:
    loaded = prepared(preparation, write_onnx(tmp_path / "m", SIZED))
    for k in (1, 2, 3):
        answer = loaded.model.infer({"x": numbers(2, 3), "k": np.array([k])}, ("y", "i"))
        assert answer["y"].shape == (2, k)


# ---- what was prepared before ----


def prepared_files(cache: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_ino) for path in (cache / PREPARED_STORE).iterdir()}


def test_it_is_opened_again_without_a_worker(tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "m"), tmp_path / "cache"
    first = Preparation()
    wanted = prepared(first, folder, cache_dir=str(cache))
    first.close()
    files = prepared_files(cache)
    second = Preparation(python="/nonexistent/python")
    made = prepared(second, folder, cache_dir=str(cache))
    assert_same(wanted, made, {"x": numbers(1, 3, 8, 8)})
    assert made.model.choice == wanted.model.choice
    assert made.joined_rows == wanted.joined_rows
    assert prepared_files(cache) == files
    second.close()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "json", "swapped"])
def test_what_is_damaged_is_prepared_again(
    preparation: Preparation, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other, cache = write(tmp_path / "m"), write(tmp_path / "o", OTHER), tmp_path / "cache"
    wanted = prepared(preparation, folder, cache_dir=str(cache))
    prepared(preparation, other, cache_dir=str(cache))
    key, strange = (key_of(f / "1", ModelConfig(), {}, completes=True, ours=True) for f in (folder, other))
    general, value = cache / PREPARED_STORE / f"{key}.0", cache / PREPARED_STORE / f"{key}.json"
    if damage == "flipped":
        content = bytearray(general.read_bytes())
        content[len(content) // 2] ^= 1
        general.write_bytes(content)
    elif damage == "cut":
        general.write_bytes(general.read_bytes()[:1000])
    elif damage == "gone":
        general.unlink()
    elif damage == "json":
        value.write_bytes(b"{}")
    else:
        value.write_bytes((cache / PREPARED_STORE / f"{strange}.json").read_bytes())
        general.write_bytes((cache / PREPARED_STORE / f"{strange}.0").read_bytes())
    fresh = Preparation()
    made = prepared(fresh, folder, cache_dir=str(cache))
    assert_same(wanted, made, {"x": numbers(1, 3, 8, 8)})
    fresh.close()


def test_a_folder_that_can_only_be_read_does_as_well(preparation: Preparation, tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "m"), tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    made = prepared(preparation, folder, cache_dir=str(cache))
    assert made.model.infer({"x": numbers(1, 3, 8, 8)}, ("y",))["y"].shape == (1, 4, 8, 8)


def test_the_key_is_of_all_that_decides(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")

    def key(config: dict[str, Any] | None = None, *, completes: bool = True, ours: bool = True, **options: str) -> str:
        return key_of(folder / "1", ModelConfig.read(config or {}), options, completes=completes, ours=ours)

    plain = key()
    # Triton fills in the rest of a configuration; the cache's own place and limits of time decide nothing.
    triton = {"name": "m", "backend": "tnn", "version_policy": {"latest": {"num_versions": 1}}, "optimization": {}}
    assert key(triton) == plain
    assert key(cache_dir="/somewhere", load_timeout_s="3") == plain
    parameter = {"parameters": {"engine": {"string_value": "openvino"}}}
    keys = [plain, key({"max_batch_size": 4}), key(parameter), key(engine="openvino"), key(completes=False)]
    keys.append(key({"instance_group": [{"count": 2}]}))
    (folder / "1" / "check.npz").write_bytes(b"x")
    keys.append(key())
    keys.append(key(ours=False))
    assert len(set(keys)) == len(keys)


def test_equal_models_are_one(preparation: Preparation, tmp_path: Path) -> None:
    first, second = (prepared(preparation, write(tmp_path / name)) for name in ("one", "two"))
    assert first.model is second.model


# ---- after the load ----


def test_files_may_be_replaced_after_the_load(preparation: Preparation, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    loaded = prepared(preparation, folder)
    (folder / "1").rename(tmp_path / "away")
    for file in (tmp_path / "away").iterdir():
        file.unlink()
    assert loaded.model.infer({"x": numbers(1, 3, 9, 9)}, ("y",))["y"].shape == (1, 4, 9, 9)


def test_files_may_be_written_over_after_the_load(preparation: Preparation, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    loaded, wanted = prepared(preparation, folder, engine="openvino"), here(folder, engine="openvino")
    for file in (folder / "1").iterdir():
        with file.open("r+b") as cut:
            cut.truncate(0)
    for shape in ((1, 3, 8, 8), (2, 3, 8, 8), (1, 3, 9, 9)):
        assert_same(wanted, loaded, {"x": numbers(*shape)})


def test_a_model_that_is_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    made = Preparation()
    loaded = prepared(made, write(tmp_path / "m"))
    folder = made.folder
    assert list(folder.glob("source-*"))
    del loaded
    assert not list(folder.glob("source-*"))
    assert not list(folder.glob("out-*"))
    made.close()
    assert not folder.exists()


# ---- what goes wrong ----


def test_broken_files_are_refused_in_the_same_words(preparation: Preparation, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / "1" / "net.tnnproto").write_text(
        '"1 1 1 4206624770 ,"\n"x 1 ,"\n" y ,"\n"y ,"\n" 1 ,"\n"Nope n 1 1 x y ,"\n'
    )
    for load in (lambda: here(folder), lambda: prepared(preparation, folder)):
        with pytest.raises(UnsupportedLayer, match=r"layer 0 `n` \(Nope\): type `Nope` is unknown") as caught:
            load()
        assert str(folder / "1" / "net.tnnproto") in str(caught.value)


@pytest.mark.parametrize("endless", [nested_functions, endless_loop])
def test_what_never_ends_is_ended(preparation: Preparation, tmp_path: Path, endless: Any) -> None:
    folder = write_onnx(tmp_path / "m", endless())
    with pytest.raises(LimitError, match=r"takes too long.*at most 3 s"):
        prepared(preparation, folder, load_timeout_s="3")
    assert prepared(preparation, write(tmp_path / "good")).model.engine


def test_memory_is_limited_by_the_system(
    preparation: Preparation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    wide = {"x": [1, 2048]}, {"y": None}, {"w": np.ones((2048, 2048), np.float32)}
    folder = write_onnx(tmp_path / "m", model([node], *wide))
    monkeypatch.setattr("tnn_serving.prepare.preparation.process_bytes", lambda _: 8 << 20)
    with pytest.raises(LimitError, match=r"larger than the memory there is|too much memory"):
        prepared(preparation, folder)
    monkeypatch.undo()
    assert prepared(preparation, folder).model.engine


def test_a_wrong_configuration_needs_no_worker(tmp_path: Path) -> None:
    made = Preparation(python="/nonexistent/python")
    with pytest.raises(ConfigError, match="parameter `int8` cannot be read"):
        prepared(made, write(tmp_path / "m"), int8="sometimes")
    made.close()


def test_models_are_prepared_side_by_side(preparation: Preparation, tmp_path: Path) -> None:
    folders = [
        write(tmp_path / f"m{k}", network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"], seed=10 + k)) for k in range(6)
    ]
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda folder: prepared(preparation, folder), folders))
    assert len({id(one.model) for one in made}) == 6
    for folder, one in zip(folders, made, strict=True):
        assert_same(here(folder, engine=one.model.engine), one, {"x": numbers(1, 3, 8, 8)})


def test_a_worker_that_is_killed_is_replaced_once(preparation: Preparation, tmp_path: Path) -> None:
    """As the kernel does where memory runs out: the second one may find it."""
    folder = write_onnx(tmp_path / "m", endless_loop())
    errors: list[BaseException] = []

    def load() -> None:
        try:
            prepared(preparation, folder, load_timeout_s="1000")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    killed: set[int] = set()
    while thread.is_alive():
        warm = preparation.workers._process
        for process in psutil.Process(warm.pid).children() if warm is not None else ():
            if process.pid not in killed:
                killed.add(process.pid)
                process.send_signal(signal.SIGKILL)
        thread.join(0.05)
    assert len(killed) == 2
    assert "ended by a signal" in str(errors[0])
    assert "SIGKILL" in str(errors[0])


def test_refused_shapes_name_the_layer_and_the_models_own_file(preparation: Preparation, tmp_path: Path) -> None:
    loaded = prepared(preparation, write(tmp_path / "m"))
    assert isinstance(loaded.model, PreparedSession)
    with pytest.raises(TnnError, match="layer 0 `c`") as caught:
        loaded.model._network.check_shapes({"x": (1, 5, 8, 8)}, ())
    assert str(tmp_path / "m" / "1" / "net.tnnproto") in str(caught.value)
