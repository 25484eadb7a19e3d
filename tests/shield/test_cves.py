"""What public advisories on tritonserver describe, tried against the real server behind the shield.

docs/reference/cves.md names these tests. Where an advisory does not tell the request, each form that fits its
description is tried.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.shield.conftest import TOKEN, Shielded
from tests.shield.raw import with_length
from tnn_serving.triton.access import GRPC_PREFIX, TOKEN_HEADER

FEW = [{"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]
DATA = {"datatype": "FP32", "data": [1, 2, 3, 4]}
HUGE = 2**62


def infer(inputs: object, **more: object) -> bytes:
    return with_length(json.dumps({"inputs": inputs, **more}).encode())


@pytest.mark.parametrize("outputs", [1_000, 100_000])
@pytest.mark.parametrize("name", ["y", "unknown {}"])
def test_a_great_number_of_outputs_over_http(shielded: Shielded, outputs: int, name: str) -> None:
    wanted = [{"name": name.format(k)} for k in range(outputs)]
    answer = shielded.send(infer(FEW, outputs=wanted))
    assert answer.status in (200, 400)
    shielded.assert_well()


@pytest.mark.parametrize("outputs", [1_000, 100_000])
def test_a_great_number_of_outputs_over_grpc(shielded: Shielded, outputs: int) -> None:
    request = model_infer()
    for k in range(outputs):
        request.outputs.add(name=f"unknown {k}")
    assert status_of(shielded, "ModelInfer", request) is grpc.StatusCode.INVALID_ARGUMENT
    shielded.assert_well()


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "x", "shape": [HUGE, 4], **DATA},
        {"name": "x", "shape": [2**31, 2**31, 2, 2], **DATA},
        {"name": "x", "shape": [-1, 1, 2, 2], **DATA},
        {"name": "x", "shape": [-(2**63), 1, 2, 2], **DATA},
        {"name": "x", "shape": [2**64, 1, 2, 2], **DATA},
        {"name": "x", "shape": [1e300, 1, 2, 2], **DATA},
        {"name": "x", "shape": [1] * 10_000, **DATA},
        {"name": "x", "shape": [0, 0, 0, 0], "datatype": "FP32", "data": []},
        {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": HUGE}},
        {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": -1}},
        {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 2**64}},
    ],
    ids=lambda tensor: str(tensor)[:60],
)
@pytest.mark.parametrize("binary", [False, True])
def test_numbers_that_overflow_over_http(shielded: Shielded, tensor: dict[str, Any], binary: bool) -> None:
    body = json.dumps({"inputs": [tensor]}).encode()
    headers = (b"Inference-Header-Content-Length: %d" % len(body),) if binary else ()
    answer = shielded.send(with_length(body + bytes(16 * binary), *headers))
    assert answer.status >= 400 or tensor["shape"] == [0, 0, 0, 0]
    shielded.assert_well()


@pytest.mark.parametrize(
    "shape", [[HUGE, 4, 1, 1], [2**31, 2**31, 2, 2], [-1, 1, 2, 2], [-(2**63), 1, 2, 2], [1] * 10_000]
)
@pytest.mark.parametrize("size", [0, 16])
def test_numbers_that_overflow_over_grpc(shielded: Shielded, shape: list[int], size: int) -> None:
    request = model_infer(shape, bytes(size))
    assert status_of(shielded, "ModelInfer", request) is not grpc.StatusCode.OK
    shielded.assert_well()


NAMES = ["../../etc/passwd", "..", ".", "/etc", "..\\..", "x" * 100_000]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_model_names_that_leave_the_repository(shielded: Shielded, name: str) -> None:
    requests = {
        "ModelReady": service_pb2.ModelReadyRequest(name=name),
        "ModelMetadata": service_pb2.ModelMetadataRequest(name=name),
        "ModelConfig": service_pb2.ModelConfigRequest(name=name),
        "ModelStatistics": service_pb2.ModelStatisticsRequest(name=name),
        "ModelInfer": service_pb2.ModelInferRequest(model_name=name),
        "TraceSetting": service_pb2.TraceSettingRequest(model_name=name),
    }
    for method, request in requests.items():
        code = status_of(shielded, method, request)
        assert code is not grpc.StatusCode.OK or method == "ModelReady", method
    quoted = "".join(f"%{byte:02x}" for byte in name[:100].encode())
    for path in (f"/v2/models/{quoted}", f"/v2/models/{quoted}/config", f"/v2/models/{quoted}/ready"):
        answer = shielded.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert "root:" not in answer.body
    shielded.assert_well()


@pytest.mark.parametrize("name", ["relu/../relu", "../outside/evil", "relu/.."])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_loading_from_outside_the_repository(
    shielded: Shielded, name: str, compression: grpc.Compression | None
) -> None:
    """tritonserver alone loads `../outside/evil` from beside its repository."""
    message = service_pb2.RepositoryModelLoadRequest(model_name=name)
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        code = status_of(shielded, method, message, compression)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    with grpc.insecure_channel(shielded.running.grpc_url) as channel:
        index = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryIndex", None, service_pb2.RepositoryIndexResponse.FromString
        )(b"", timeout=60, metadata=((GRPC_PREFIX + TOKEN_HEADER, TOKEN),))
    assert {model.name for model in index.models} == {"relu", "idle"}


def model_infer(shape: list[int] | None = None, content: bytes = bytes(16)) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="relu")
    request.inputs.add(name="x", datatype="FP32", shape=shape or [1, 1, 2, 2])
    request.raw_input_contents.append(content)
    return request


def status_of(
    shielded: Shielded, method: str, request: Any, compression: grpc.Compression | None = None
) -> grpc.StatusCode:
    """The status of a call with the token."""
    with grpc.insecure_channel(shielded.running.grpc_url) as channel:
        call = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}", lambda message: message.SerializeToString(), bytes
        )
        code: grpc.StatusCode = call.future(
            request, timeout=60, metadata=((GRPC_PREFIX + TOKEN_HEADER, TOKEN),), compression=compression
        ).code()
    return code
