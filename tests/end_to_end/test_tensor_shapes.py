"""Shapes of tensors on the real server, by HTTP and gRPC: ``reshape``, scalars, and sizes that no network takes."""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils.shared_memory as shared_memory
from onnx import NodeProto, TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.end_to_end.test_serving import counted, png
from tests.onnx_models import FLOAT, Dims, model, random, value, write
from tests.servers import DEADLINE_S, Running, load, unload
from tnn_serving.check.repository import check

RELU = [helper.make_node("Relu", ["x"], ["y"])]


def save(
    repository: Path,
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    config: str | None = None,
    **types: int,
) -> Path:
    """Writes an ONNX model of float32 tensors, but for those of other ``types``; returns its folder."""
    values = [[value(key, dims, types.get(key, FLOAT)) for key, dims in side.items()] for side in (inputs, outputs)]
    write(model(nodes, *values), repository / name / "1")
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def tensor(kind: str, name: str, dims: str, reshape: str | None = None, data_type: str = "TYPE_FP32") -> str:
    shape = "" if reshape is None else f" reshape {{ shape: [ {reshape} ] }}"
    return f'{kind} [ {{ name: "{name}" data_type: {data_type} dims: [ {dims} ]{shape} }} ]\n'


def both(dims: str, reshape: str, more: str = "") -> str:
    return tensor("input", "x", dims, reshape) + tensor("output", "y", dims, reshape) + more


GATHERING = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 200000 }\n"
RATE = [
    helper.make_node("Cast", ["rate"], ["factor"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["x", "factor"], ["y"]),
    helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
]
START = [
    helper.make_node("Cast", ["START"], ["first"], to=TensorProto.FLOAT),
    helper.make_node("Add", ["x", "first"], ["y"]),
]
SEQUENCES = (
    'sequence_batching { control_input [ { name: "START" control [ '
    "{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] } ] }\n"
)
WARM_UP = """model_warmup [ { name: "once" batch_size: 1
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 4 ] random_data: true } } } ]
"""
ENSEMBLE = """platform: "ensemble"
input [ { name: "picture" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] }, { name: "gain" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "result" data_type: TYPE_FP32 dims: [ 12, 4 ] }, { name: "sum" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "reshaped" model_version: -1
    input_map { key: "x" value: "picture" } output_map { key: "y" value: "positive" } },
  { model_name: "folded" model_version: -1
    input_map { key: "x" value: "positive" } input_map { key: "rate" value: "gain" }
    output_map { key: "y" value: "result" } output_map { key: "total" value: "sum" } }
] }
"""
FOLDED = (
    'input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] reshape { shape: [ 12, 4 ] } },\n'
    '{ name: "rate" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]\n'
)


def write_models(repository: Path) -> None:
    scalars: dict[str, Any] = {"rate": TensorProto.INT64}
    save(repository, "scalars", RATE, {"x": ["n", 4], "rate": []}, {"y": ["n", 4], "total": []}, **scalars)
    save(repository, "reshaped", RELU, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, both("3, 4, 4", "1, 3, 4, 4"))
    save(repository, "rows", RELU, {"x": ["n", 12]}, {"y": ["n", 12]}, GATHERING + both("3, 4", "12"))
    free: dict[str, Dims] = {"x": ["n", 8, "w", 1, 6]}
    config = "max_batch_size: 4\n" + both("2, 4, -1, 6", "8, -1, 1, 6")
    save(repository, "free", RELU, free, {"y": free["x"]}, config)
    save(repository, "row_scalars", RELU, {"x": ["n"]}, {"y": ["n"]}, GATHERING)
    save(
        repository,
        "warmed_reshaped",
        RELU,
        {"x": ["n", 12]},
        {"y": ["n", 12]},
        "max_batch_size: 2\n" + both("3, 4", "12", WARM_UP),
    )
    large: dict[str, Dims] = {"x": [1, 3, 128, 128]}
    save(repository, "large", RELU, large, {"y": large["x"]}, both("3, 128, 128", "1, 3, 128, 128"))
    save(repository, "squares", RELU, {"x": ["n"]}, {"y": ["n"]}, tensor("output", "y", "2, 2", "4"))
    labels = (
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] reshape { shape: [ 1, 3 ] } label_filename: "l" } ]\n'
    )
    folder = save(
        repository, "labelled_reshaped", RELU, {"x": [1, 3]}, {"y": [1, 3]}, tensor("input", "x", "3", "1, 3") + labels
    )
    (folder / "l").write_text("red\ngreen\nblue\n")
    pictures: dict[str, Dims] = {"x": ["n", 3, "h", "w"]}
    flat = tensor("input", "x", "48, 3", "6, 8, 3", "TYPE_UINT8")
    save(repository, "flat_pixels", RELU, pictures, {"y": pictures["x"]}, flat)
    files = "max_batch_size: 4\n" + tensor("input", "x", "1", "", "TYPE_STRING")
    save(repository, "files", RELU, pictures, {"y": pictures["x"]}, files)
    for name, dims, batch in (("start_scalar", [], 0), ("start_rows", ["n"], 4)):
        config = f"max_batch_size: {batch}\n{SEQUENCES}"
        save(repository, name, START, {"x": ["n", 4], "START": dims}, {"y": ["n", 4]}, config, START=TensorProto.INT32)
    save(repository, "folded", RATE, {"x": [12, 4], "rate": []}, {"y": [12, 4], "total": []}, FOLDED, **scalars)
    (repository / "chain" / "1").mkdir(parents=True)
    (repository / "chain" / "config.pbtxt").write_text(ENSEMBLE)
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])
    even = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    for name, node, channels in (("pooled", pool, 3), ("halved", even, 12)):
        save(repository, name, [node], pictures, {"y": ["n", channels, "p", "q"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("shapes")
    write_models(repository)
    return repository


@pytest.fixture(scope="module", autouse=True)
def models(server: Running, repository: Path, folder: Path) -> Iterator[None]:
    # The ensemble comes last: the server finds its steps when they are loaded.
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == "chain", name))
    for name in names:
        (repository / name).symlink_to(folder / name)
    with server.http() as client:
        for name in names:
            load(client, name)
        yield
        for name in reversed(names):
            unload(client, name)
            (repository / name).unlink()


def ask(protocol: Any, model: str, outputs: Any = None, **inputs: np.ndarray) -> Any:
    module, client = protocol
    tensors = []
    for name, array in inputs.items():
        one = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array)
        tensors.append(one)
    return client.infer(model, tensors, outputs=outputs)


def is_callers_fault(error: InferenceServerException) -> bool:
    return error.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_check_finds_nothing_wrong(folder: Path) -> None:
    found = check([folder])
    assert found.errors == 0, [finding for model in found.models for _, finding in model.everything()]


# ---- scalars ----


def test_scalars_are_one_element(protocol: Any, http: Any) -> None:
    found = http.get_model_config("scalars")
    assert [(item["dims"], item.get("reshape")) for item in found["input"]] == [([-1, 4], None), ([1], None)]
    assert [(item["dims"], item.get("reshape")) for item in found["output"]] == [([-1, 4], None), ([1], None)]
    x = random(2, 4)
    answer = ask(protocol, "scalars", x=x, rate=np.array([16000]))
    np.testing.assert_array_equal(answer.as_numpy("y"), x * np.float32(16000))
    assert answer.as_numpy("total").shape == (1,)
    np.testing.assert_allclose(answer.as_numpy("total")[0], (x * np.float32(16000)).sum(), rtol=1e-4)
    for wrong in (np.array([[1]]), np.array([1, 2])):
        with pytest.raises(InferenceServerException, match="unexpected shape for input 'rate'") as error:
            ask(protocol, "scalars", x=x, rate=wrong)
        assert is_callers_fault(error.value)


def test_a_batch_of_scalars(protocol: Any, http: Any) -> None:
    for item in (*http.get_model_config("row_scalars")["input"], *http.get_model_config("row_scalars")["output"]):
        assert (item["dims"], item["reshape"]) == ([1], {"shape": []})
    for rows in (1, 3):
        x = random(rows, 1, seed=rows)
        np.testing.assert_array_equal(ask(protocol, "row_scalars", x=x).as_numpy("y"), np.maximum(x, 0))


# ---- reshape ----


def test_the_client_sees_dims_and_the_network_has_the_shape(protocol: Any) -> None:
    x = random(3, 4, 4)
    y = ask(protocol, "reshaped", x=x).as_numpy("y")
    assert y.shape == (3, 4, 4)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'x'") as error:
        ask(protocol, "reshaped", x=x[None])
    assert is_callers_fault(error.value)


def test_free_dims_are_paired_in_order(protocol: Any) -> None:
    for rows, width in ((1, 5), (3, 2)):
        x = random(rows, 2, 4, width, 6)
        y = ask(protocol, "free", x=x).as_numpy("y")
        assert y.shape == x.shape
        np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_requests_that_are_gathered(server: Running, http: Any) -> None:
    sent = {rows: random(rows, 3, 4, seed=rows) for rows in (1, 2, 3)}
    came: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
    before = counted(http, "rows", 0)
    with server.grpc() as client:
        for rows, x in sent.items():
            one = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
            one.set_data_from_numpy(x)
            client.async_infer("rows", [one], lambda result, error, rows=rows: came.put((rows, result, error)))
        for _ in sent:
            rows, result, error = came.get(timeout=DEADLINE_S)
            assert error is None
            np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(sent[rows], 0))
    after = counted(http, "rows", before["success"] + len(sent))
    assert after["executions"] - before["executions"] < len(sent)


def test_an_answer_that_does_not_fit_is_refused(protocol: Any) -> None:
    """Triton would send it with a shape of another size."""
    x = random(4)
    y = ask(protocol, "squares", x=x).as_numpy("y")
    np.testing.assert_array_equal(y, np.maximum(x, 0).reshape(2, 2))
    for length in (1, 6):
        with pytest.raises(InferenceServerException, match=rf"`reshape`: expected \[4\], found \[{length}\]") as error:
            ask(protocol, "squares", x=random(length))
        assert is_callers_fault(error.value)


def test_shared_memory_holds_the_clients_shape(protocol: Any) -> None:
    """Large outputs are computed straight into it."""
    module, client = protocol
    x = random(3, 128, 128)
    name = f"shapes_{module.__name__.rpartition('.')[2]}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 2 * x.nbytes)
    try:
        client.register_system_shared_memory(name, f"/{name}", 2 * x.nbytes)
        one = module.InferInput("x", list(x.shape), "FP32")
        one.set_shared_memory(name, x.nbytes)
        wanted = module.InferRequestedOutput("y")
        wanted.set_shared_memory(name, x.nbytes, offset=x.nbytes)
        for seed in range(3):
            x = random(3, 128, 128, seed=seed)
            shared_memory.set_shared_memory_region(region, [x])
            answer = client.infer("large", [one], outputs=[wanted])
            output = answer.get_output("y")
            assert list(output["shape"] if isinstance(output, dict) else output.shape) == [3, 128, 128]
            y = shared_memory.get_contents_as_numpy(region, np.float32, x.shape, offset=x.nbytes)
            np.testing.assert_array_equal(y, np.maximum(x, 0))
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def test_classes_of_a_reshaped_output(protocol: Any) -> None:
    module, _ = protocol
    wanted = [module.InferRequestedOutput("y", class_count=2)]
    found = ask(protocol, "labelled_reshaped", wanted, x=np.array([0.5, 7, 3], np.float32)).as_numpy("y")
    assert [text.decode() for text in found] == ["7.000000:1:green", "3.000000:2:blue"]


def test_a_warm_up_has_the_clients_shape(protocol: Any) -> None:
    x = random(2, 3, 4)
    np.testing.assert_array_equal(ask(protocol, "warmed_reshaped", x=x).as_numpy("y"), np.maximum(x, 0))


def test_an_ensemble_passes_the_clients_shapes_on(protocol: Any) -> None:
    x = random(3, 4, 4)
    answer = ask(protocol, "chain", picture=x, gain=np.array([3]))
    wanted = 3 * np.maximum(x, 0)
    np.testing.assert_array_equal(answer.as_numpy("result"), wanted.reshape(12, 4))
    np.testing.assert_allclose(answer.as_numpy("sum"), [wanted.sum()], rtol=1e-5)


def test_pictures(protocol: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    planes = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    np.testing.assert_array_equal(ask(protocol, "flat_pixels", x=pixels.reshape(48, 3)).as_numpy("y"), planes)
    several = np.array([[png(pixels)], [png(pixels[::-1].copy())]], object)
    y = ask(protocol, "files", x=several).as_numpy("y")
    np.testing.assert_array_equal(y, np.concatenate([planes, planes[:, :, ::-1]]))


@pytest.mark.parametrize("model", ["start_scalar", "start_rows"])
def test_a_network_that_takes_the_start_of_a_sequence(protocol: Any, model: str) -> None:
    module, client = protocol
    x = random(1, 4)
    one = module.InferInput("x", [1, 4], "FP32")
    one.set_data_from_numpy(x)
    for number, (start, end) in enumerate(((True, False), (False, False), (False, True))):
        answer = client.infer(model, [one], sequence_id=11, sequence_start=start, sequence_end=end)
        np.testing.assert_array_equal(answer.as_numpy("y"), x + (number == 0))


WRONG = {
    "count": (both("3, 4, 5", "1, 3, 4, 4"), "input `x`: `dims` and `reshape` differ in the number of elements"),
    "pairs": (both("-1, 16", "1, 3, 4, 4"), "input `x`: `dims` and `reshape` differ in the number of free dims"),
    "network": (both("3, 4, 4", "3, 16"), "input `x`: `reshape` does not fit the network"),
    "output": (tensor("output", "y", "48", "48"), "output `y`: `reshape` does not fit the network"),
    "empty": (tensor("output", "y", "3", ""), "output `y`: `reshape` is empty"),
    "zero": (tensor("output", "y", "3", "0, 3"), "output `y`: `reshape` has an impossible dim"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_reshape_is_one_sentence_at_load_and_in_check(
    http: Any, repository: Path, tmp_path: Path, what: str
) -> None:
    config, problem = WRONG[what]
    name = f"wrong_{what}"
    save(tmp_path, name, RELU, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, config)
    (checked,) = check([tmp_path]).models
    found = [f"{finding.where}, {finding.problem}" for _, finding in checked.everything()]
    where, _, sentence = problem.partition(": ")
    assert sum(text.startswith(f"config.pbtxt, {where}, {sentence}") for text in found) == 1, found
    save(repository, name, RELU, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, config)
    with pytest.raises(InferenceServerException) as error:
        load(http, name)
    assert f"config.pbtxt, {problem}" in error.value.message()


# ---- sizes that a network cannot take ----


@pytest.mark.parametrize(
    ("model", "good", "bad"),
    [
        ("pooled", (1, 3, 9, 9), [(1, 3, 0, 9), (2, 3, 9, 0)]),
        ("halved", (1, 3, 4, 4), [(1, 3, 3, 4), (1, 3, 4, 5), (2, 3, 1, 1)]),
    ],
)
def test_a_size_that_only_the_engine_refuses_is_the_callers_fault(
    server: Running, protocol: Any, model: str, good: tuple[int, ...], bad: list[tuple[int, ...]]
) -> None:
    before = engine_errors(server, model)
    for shape in (*bad, good, *bad):
        if shape == good:
            assert ask(protocol, model, x=random(*good)).as_numpy("y").size
            continue
        with pytest.raises(InferenceServerException, match=r"the network does not take `x` \[") as error:
            ask(protocol, model, x=random(*shape))
        assert is_callers_fault(error.value)
    assert engine_errors(server, model) == before


def engine_errors(server: Running, model: str) -> list[str]:
    with urllib.request.urlopen(f"{server.supervisor.launch.url_of('metrics')}/metrics", timeout=DEADLINE_S) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith("tnn_engine_errors") and f'model="{model}"' in line]
