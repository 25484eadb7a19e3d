"""Error texts to callers: the same over HTTP and gRPC, without a path of the server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, write_matrix, write_model
from tests.servers import Running, load, start
from tnn_serving.errors import EngineError
from tnn_serving.triton.backend.errors import triton_error, without_paths

X = np.zeros((1, 3, 8, 8), np.float32)

FILES = 'max_batch_size: 0\ninput [ { name: "x" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
OPSET = '<ir_version: 8, opset_import: ["" : 18]>'
GATHER = f"{OPSET} g (float[8] x, int64[k] i) => (float[k] y) {{ y = Gather (x, i) }}"
ADD = f"{OPSET} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}"


def write_onnx(repository: Path, name: str, content: bytes) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(content)


def parsed(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(text).SerializeToString())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which little is as it should be."""
    repository = tmp_path_factory.mktemp("wrong")
    write_model(repository, "relu")
    write_model(repository, "batched", config="max_batch_size: 4\n")
    write_model(repository, "files", config=FILES)
    write_matrix(repository, "matrix", np.eye(3))
    write_onnx(repository, "gathered", parsed(GATHER))
    write_model(repository, "unknown_layer", proto=BROKEN)
    weights = write_matrix(repository, "cut", np.eye(3)) / "1" / "model.tnnmodel"
    weights.write_bytes(weights.read_bytes()[:-20])
    write_model(repository, "unknown_field", config="nonsense: 3\n")
    write_model(repository, "contradiction", config='input [ { name: "q" data_type: TYPE_FP32 dims: [ 1 ] } ]\n')
    write_model(repository, "no_labels", config='output [ { name: "y" label_filename: "none.txt" } ]\n')
    write_model(repository, "unsigned")
    (repository / "unsigned" / "SHA256SUMS").write_text(f"{'0' * 64}  1/proto.tnnproto\n")
    write_model(repository, "unrecorded")
    (repository / "unrecorded" / "1" / "check.npz").write_bytes(b"no")
    write_onnx(repository, "no_onnx", b"junk" * 20)
    write_onnx(repository, "external", with_external_data())
    proto = write_model(repository, "a_folder") / "1" / "proto.tnnproto"
    proto.unlink()
    proto.mkdir()
    (repository / "nothing" / "1").mkdir(parents=True)
    return repository


def with_external_data() -> bytes:
    """A model whose tensor is in a file that is not there."""
    model = onnx.parser.parse_model(ADD)
    (tensor,) = model.graph.initializer
    tensor.ClearField("float_data")
    tensor.raw_data = bytes(8)
    onnx.external_data_helper.set_external_data(tensor, "w.bin")
    tensor.ClearField("raw_data")
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def wrong(installed: None, folder: Path) -> Iterator[Running]:
    running = start([folder], ["--model-control-mode=explicit", "--load-model=*"])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    assert running.finish() == 0
    running.overlay.close()


def asked(model: str, *tensors: tuple[str, Any, str], **options: Any) -> Callable[[Any, Any], Any]:
    """An inference, by the module and the client of a protocol."""

    def ask(api: Any, client: Any) -> Any:
        inputs = [api.InferInput(name, list(array.shape), datatype) for name, array, datatype in tensors]
        for tensor, (_, array, _) in zip(inputs, tensors, strict=True):
            tensor.set_data_from_numpy(array)
        outputs = [api.InferRequestedOutput(name) for name in options.get("outputs", ())]
        return client.infer(model, inputs, **{**options, "outputs": outputs or None})

    return ask


def loading(model: str) -> Callable[[Any, Any], Any]:
    return lambda api, client: client.load_model(model)


def bytes_of(*files: bytes) -> np.ndarray:
    return np.array(files, np.object_)


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "unknown model": (asked("nope", ("x", X, "FP32")), "Request for unknown model: 'nope'"),
    "unknown version": (asked("relu", ("x", X, "FP32"), model_version="7"), "version 7 is not found"),
    "model that is not loaded": (asked("cut", ("x", X, "FP32")), "'cut' has no available versions"),
    "unknown input": (asked("relu", ("z", X, "FP32")), "unexpected inference input 'z'"),
    "missing input": (asked("gathered", ("x", X[0, 0, 0], "FP32")), r"missing required input\(s\) \['i'\]"),
    "unknown output": (asked("relu", ("x", X, "FP32"), outputs=["q"]), "unexpected inference output 'q'"),
    "type": (asked("relu", ("x", X.astype(np.int32), "INT32")), "data-type is 'INT32'"),
    "rank": (asked("relu", ("x", X[0], "FP32")), "unexpected shape for input 'x'"),
    "batch": (asked("batched", ("x", np.repeat(X, 9, 0), "FP32")), "batch-size must be <= 4"),
    "size": (
        asked("matrix", ("x", X[:, :, :0], "FP32")),
        r"model `matrix`: the network does not take `x` \[1, 3, 0, 8\]: found matrix/1/proto.tnnproto, layer 0 `c`",
    ),
    "index": (
        asked("gathered", ("x", X[0, 0, 0], "FP32"), ("i", np.array([99]), "INT64")),
        "expected -8 to 7, found 99",
    ),
    "word": (asked("files", ("x", bytes_of(b"hello"), "BYTES")), "text that is not base64: 5 bytes"),
    "picture cut off": (asked("files", ("x", bytes_of(b"\x89PNG\r\n\x1a\n"), "BYTES")), "a PNG with a broken header"),
    "no folder": (loading("nope"), "failed to load 'nope'"),
    "no files": (loading("nothing"), "failed to load 'nothing'"),
    "configuration": (loading("unknown_field"), "failed to load 'unknown_field'"),
    "input of the configuration": (loading("contradiction"), "config.pbtxt, input `q`: the network has no such input"),
    "label file": (loading("no_labels"), "label file `none.txt`: cannot be read"),
    "manifest": (loading("unsigned"), "model `unsigned`, version 1: file `"),
    "recorded case": (loading("unrecorded"), "unrecorded/1/check.npz: cannot read recording"),
    "layer": (loading("unknown_layer"), "version 1, unknown_layer/1/proto.tnnproto, layer 0 `r`"),
    "weights": (loading("cut"), "version 1, cut/1/model.tnnmodel, entry 0 `c`"),
    "not ONNX": (loading("no_onnx"), "version 1, no_onnx/1/model.onnx: a text file, not an ONNX model"),
    "external data": (loading("external"), "external/1/model.onnx, external data `w.bin`"),
    "folder": (loading("a_folder"), "version 1, a_folder/1/proto.tnnproto: cannot be read: Is a directory"),
    "shared memory": (lambda api, client: client.register_system_shared_memory("r", "/nope/x", 8), "Unable to open"),
    "trace": (lambda api, client: client.update_trace_settings("relu", {"trace_file": "/x"}), "can not be updated"),
}


def places(folder: Path, running: Running) -> list[str]:
    """Where the server has things."""
    return [*running.overlay.folders, str(folder), sys.prefix, str(Path(__file__).parents[2]), os.path.expanduser("~")]


@pytest.mark.parametrize("what", WRONG)
def test_both_protocols_say_the_same_and_no_path(folder: Path, wrong: Running, what: str) -> None:
    ask, said = WRONG[what]
    texts = []
    for api, client in ((tritonclient.http, wrong.http()), (tritonclient.grpc, wrong.grpc())):
        with client, pytest.raises(InferenceServerException, match=said) as raised:
            ask(api, client)
        texts.append(raised.value.message())
    assert texts[0] == texts[1]
    assert [place for place in places(folder, wrong) if place in texts[0]] == []


def test_the_index_says_no_path_either(folder: Path, wrong: Running) -> None:
    with wrong.http() as http, wrong.grpc() as grpc:
        over_http = {entry["name"]: entry.get("reason", "") for entry in http.get_model_repository_index()}
        listed = grpc.get_model_repository_index(as_json=True)["models"]
        assert {entry["name"]: entry.get("reason", "") for entry in listed} == over_http
    assert "layer 0 `r`" in over_http["unknown_layer"]
    assert [place for place in places(folder, wrong) for reason in over_http.values() if place in reason] == []


def test_the_server_still_answers(wrong: Running) -> None:
    with wrong.http() as client:
        load(client, "relu")
    assert wrong.restarts == []


def test_files_are_named_by_their_path_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TNN_REPOSITORIES", '["/srv/models", "/srv/models/more"]')
    assert without_paths("/srv/models/face/1/x, /srv/models/more/ocr/1/y") == "face/1/x, ocr/1/y"
    assert without_paths("/models/ocr/1/x", Path("/models")) == "ocr/1/x"
    for name in ("/srv/modelsX/a", "b/srv/models/c", "x/tmp/y"):
        assert without_paths(name) == name
    assert without_paths("no model in /srv/models") == "no model in the server"
    assert without_paths("tensor /model/conv/Conv_output_0") == "tensor /model/conv/Conv_output_0"
    assert str(triton_error(EngineError(f"{sys.prefix}/lib/x.py failed"))) == "lib/x.py failed"
    error = FileNotFoundError(2, "No such file or directory", "/var/secret")
    assert str(triton_error(error)) == "FileNotFoundError: No such file or directory"
