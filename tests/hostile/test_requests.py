"""Broken requests to a running server: each gets a sentence, neighbours their answers."""

from __future__ import annotations

import io
import json
import math
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_model
from tests.hostile.conftest import Target, assert_sentence, bounded
from tests.servers import Running, ask, wait_for

NUMBERS = st.sampled_from([0, 1, 2, 3, -1, -5, 64, 2**31 - 1, 2**31, 2**62, -(2**63)])
"""Dims. Large ones never together with data in JSON: tritonserver makes room for all of it before it looks."""

TYPES = st.sampled_from(["FP32", "FP16", "INT8", "INT64", "BYTES", "BOOL", "BF16", "FP99", ""])
MODELS = st.sampled_from(["relu", "batched", "pixels", "encoded", "limited", "sized"])

pieces = st.binary(max_size=40) | st.builds(
    lambda length, data: struct.pack("<I", length) + data, st.integers(0, 2**32 - 1), st.binary(max_size=20)
)


@st.composite
def binary_request(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A JSON header and bytes behind it, with sizes that lie."""
    data = b"".join(draw(st.lists(pieces, max_size=3)))
    told = draw(st.sampled_from([len(data), 0, 1, len(data) + 1, 2**40]))
    inputs = [
        {
            "name": draw(st.sampled_from(["x", "s", "", "y", "\ud800x".encode("utf-8", "replace").decode()])),
            "shape": draw(st.lists(NUMBERS.map(abs), max_size=5)),
            "datatype": draw(TYPES),
            "parameters": {"binary_data_size": told},
        }
        for _ in range(draw(st.integers(0, 2)))
    ]
    header = json.dumps({"inputs": inputs}).encode()
    length = draw(st.sampled_from([len(header), 0, 1, len(header) - 1, len(header) + 1, 2**63, -1]))
    return header + data, {"Inference-Header-Content-Length": str(length)}


@bounded
@given(MODELS, binary_request())
def test_binary_requests(target: Target, model: str, request_: tuple[bytes, dict[str, str]]) -> None:
    body, headers = request_
    status, text = target.post(f"/v2/models/{model}/infer", body, headers)
    assert status == 200 or status >= 400
    if status != 200:
        assert_sentence(json.loads(text)["error"])
    target.assert_well()


JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, -1, 2**63, 1.5, "", "x", "FP32", "é\n"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@bounded
@given(MODELS, JSON)
def test_json_of_any_form(target: Target, model: str, body: object) -> None:
    status, text = target.post(f"/v2/models/{model}/infer", json.dumps(body).encode())
    assert status >= 400
    assert_sentence(json.loads(text)["error"])
    target.assert_well()


@bounded
@given(
    MODELS,
    st.lists(st.tuples(st.sampled_from(["x", "s", "x\0", "y"]), TYPES, st.lists(NUMBERS, max_size=5)), max_size=3),
    st.lists(pieces, max_size=3),
    st.lists(st.sampled_from(["y", "z", ""]), max_size=3),
)
def test_grpc_messages(
    target: Target, model: str, inputs: list[tuple[str, str, list[int]]], raw: list[bytes], outputs: list[str]
) -> None:
    """Messages that the client would not make: negative dims, contents that belong to no input, equal names."""
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for name, datatype, shape in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        message.outputs.add(name=name)
    status, text = call(target, message.SerializeToString())
    assert status is grpc.StatusCode.OK or text
    if status is not grpc.StatusCode.OK:
        assert_sentence(text)
    target.assert_well()


def call(target: Target, message: bytes) -> tuple[grpc.StatusCode, str]:
    """Sends bytes as a ModelInfer request."""
    with grpc.insecure_channel(target.running.grpc_url) as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", request_serializer=bytes, response_deserializer=bytes
        )
        try:
            method(message, timeout=20)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@bounded
@given(st.binary(max_size=200))
def test_bytes_as_grpc_messages(target: Target, message: bytes) -> None:
    call(target, message)
    target.assert_well()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 5000,
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v2/models/relu/infer HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\nabc",
        b"POST /v2/models/relu/infer HTTP/1.1\r\nContent-Length: -1\r\n\r\nabc",
        b"POST /v2/models/relu/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    ],
    ids=["zeros", "long line", "long body", "negative", "chunk", "frames"],
)
def test_bytes_on_the_ports(target: Target, protocol: str, data: bytes) -> None:
    url = target.running.http_url if protocol == "http" else target.running.grpc_url
    host, port = url.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
    target.assert_well()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"inputs":[{"name":"\xff\xfe","shape":[1,1,1,1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,1,1,1],"datatype":"FP32","data":[1e999]}]}',
        b'{"inputs":[{"name":"x","shape":[-1,1,1,1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[4611686018427387904,4,1,1],"datatype":"FP32","data":[]}]}',
    ],
    ids=["empty", "null", "lists", "objects", "no utf-8", "number", "negative dim", "overflow"],
)
def test_particular_bodies(target: Target, body: bytes) -> None:
    status, text = target.post("/v2/models/relu/infer", body)
    assert status >= 400
    assert_sentence(json.loads(text)["error"])
    target.assert_well()


def test_nested_data(target: Target) -> None:
    """tritonserver flattens up to some ten thousand levels; the security page says what deeper nesting does."""
    body = b'{"inputs":[{"name":"x","shape":[1,1,1,1],"datatype":"FP32","data":' + b"[" * 1000 + b"-1" + b"]" * 1000
    status, text = target.post("/v2/models/relu/infer", body + b"}]}")
    assert (status, json.loads(text)["outputs"][0]["data"]) == (200, [0.0])
    target.assert_well()


def tensor(name: str = "x", shape: tuple[int, ...] = (1, 1, 1, 1)) -> dict[str, object]:
    return {"name": name, "shape": list(shape), "datatype": "FP32", "data": [1.0] * math.prod(shape)}


@pytest.mark.parametrize(
    "inputs",
    [[tensor(), tensor()], [tensor(f"n{k}") for k in range(10_000)], [tensor(), tensor("x" * 100_000)], []],
    ids=["twice", "ten thousand", "long name", "none"],
)
def test_inputs_that_are_not_the_models(target: Target, inputs: list[dict[str, object]]) -> None:
    status, text = target.infer("relu", inputs)
    assert status == 400
    assert_sentence(json.loads(text)["error"])
    target.assert_well()


@pytest.mark.parametrize(
    "outputs", [[{"name": "y"}] * 10_000, [{"name": "y", "parameters": {"classification": 2**31}}]]
)
def test_outputs_without_end(target: Target, outputs: list[dict[str, object]]) -> None:
    status, _ = target.infer("relu", [tensor()], outputs=outputs)
    assert status == 200
    target.assert_well()


def test_requests_that_need_too_much_memory(target: Target) -> None:
    with target.running.grpc() as client:
        protocol = tritonclient.grpc, client
        for model in ("limited", "batched"):
            ask(protocol, model, np.ones((1, 1, 16, 16), np.float32))
        with pytest.raises(InferenceServerException, match="memory_limit_bytes"):
            ask(protocol, "limited", np.ones((1, 1, 600, 600), np.float32))
        with pytest.raises(InferenceServerException, match="memory_limit_bytes"):
            ask(protocol, "pixels", np.ones((600, 600, 3), np.uint8))
        target.assert_well()


def test_small_files_of_large_pictures(target: Target) -> None:
    """A blank picture packs a thousand to one; what counts is what all of them become."""
    file = io.BytesIO()
    Image.new("RGB", (100, 100)).save(file, "PNG")
    data = file.getvalue()
    assert len(data) < 2000
    with target.running.grpc() as client:
        protocol = tritonclient.grpc, client
        y = ask(protocol, "album", np.array([[data]], object))
        assert y.as_numpy("y").shape == (1, 3, 100, 100)
        with pytest.raises(InferenceServerException, match="memory_limit_bytes"):
            ask(protocol, "album", np.array([[data]] * 60, object))
    target.assert_well()


@pytest.mark.parametrize("sizes", [[2**31 - 1, 2], [10**6, 2], [-1, -1], [0, 0], [3, 3]])
def test_outputs_as_large_as_a_request_says(target: Target, sizes: list[int]) -> None:
    inputs = [
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "s", "shape": [2], "datatype": "INT32", "data": sizes},
    ]
    status, text = target.infer("sized", inputs)
    if sizes in ([-1, -1],):
        assert (status, json.loads(text)["outputs"][0]["shape"]) == (200, [1, 2])
    elif sizes == [0, 0]:
        assert status in (200, 400)
    else:
        assert status == 400
        assert_sentence(json.loads(text)["error"])
    target.assert_well()


def test_numbers_that_are_none(target: Target) -> None:
    """NaN and infinity are numbers of the type and travel as they are."""
    x = np.array([np.inf, -np.inf, np.nan, 0], np.float32).reshape(1, 1, 2, 2)
    with target.running.grpc() as client:
        y = ask((tritonclient.grpc, client), "relu", x).as_numpy("y")
    assert y[0, 0, 0, 0] == np.inf
    assert y[0, 0, 0, 1] == 0
    target.assert_well()


def test_a_crash_of_the_front_end_is_repaired(start_server: Callable[..., Running], tmp_path: Path) -> None:
    """tritonserver 2.51 walks nested JSON by recursion and ends; the supervisor has it back within seconds."""
    write_model(tmp_path, "relu")
    running = start_server([tmp_path])
    first = running.supervisor.pid
    assert first is not None
    target = Target(running, tmp_path, first)
    depth = 200_000
    body = b'{"inputs":[{"name":"x","shape":[1,1,1,1],"datatype":"FP32","data":' + b"[" * depth + b"1" + b"]" * depth
    assert target.post("/v2/models/relu/infer", body + b"}]}") == (0, "")
    wait_for(lambda: len(running.ready) == 2, "the server is back")
    second = running.supervisor.pid
    assert second is not None
    assert second != first
    assert running.restarts
    with running.http() as client:
        y = ask((tritonclient.http, client), "relu", np.full((1, 1, 1, 1), -1, np.float32)).as_numpy("y")
    assert y.item() == 0
