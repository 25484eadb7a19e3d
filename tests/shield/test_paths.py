"""Only the documented paths and methods reach the server, and those of administration only with the token."""

from __future__ import annotations

import re

import grpc
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.shield.conftest import TOKEN, Alone, Shielded
from tests.shield.raw import Answer, send
from tnn_serving.shield import paths
from tnn_serving.triton.access import ADMIN_APIS, GRPC_PREFIX, TOKEN_HEADER

EXAMPLES = {
    ("GET", "/v2"): "metadata",
    ("GET", "/v2/"): "metadata",
    ("GET", "/v2/health/live"): "health",
    ("GET", "/v2/health/ready"): "health",
    ("GET", "/v2/models/relu"): "metadata",
    ("GET", "/v2/models/relu/versions/1"): "metadata",
    ("GET", "/v2/models/relu/ready"): "health",
    ("GET", "/v2/models/relu/versions/1/ready"): "health",
    ("GET", "/v2/models/named.with.dots/config"): "model-config",
    ("GET", "/v2/models/relu/versions/1/config"): "model-config",
    ("GET", "/v2/models/stats"): "statistics",
    ("GET", "/v2/models/relu/stats"): "statistics",
    ("GET", "/v2/models/relu/versions/1/stats"): "statistics",
    ("POST", "/v2/models/relu/infer"): "inference",
    ("POST", "/v2/models/relu/versions/1/infer"): "inference",
    ("POST", "/v2/models/relu/generate"): "inference",
    ("POST", "/v2/models/relu/generate_stream"): "inference",
    ("POST", "/v2/repository/index"): "model-repository",
    ("POST", "/v2/repository/models/relu/load"): "model-repository",
    ("POST", "/v2/repository/models/relu/unload"): "model-repository",
    ("GET", "/v2/systemsharedmemory/status"): "shared-memory",
    ("GET", "/v2/systemsharedmemory/region/r/status"): "shared-memory",
    ("POST", "/v2/systemsharedmemory/region/r/register"): "shared-memory",
    ("POST", "/v2/systemsharedmemory/region/r/unregister"): "shared-memory",
    ("POST", "/v2/systemsharedmemory/unregister"): "shared-memory",
    ("GET", "/v2/cudasharedmemory/status"): "shared-memory",
    ("POST", "/v2/cudasharedmemory/region/r/register"): "shared-memory",
    ("GET", "/v2/trace/setting"): "trace",
    ("POST", "/v2/trace/setting"): "trace",
    ("GET", "/v2/models/relu/trace/setting"): "trace",
    ("POST", "/v2/models/relu/trace/setting"): "trace",
    ("GET", "/v2/logging"): "logging",
    ("POST", "/v2/logging"): "logging",
}


def ask(server: Alone | Shielded, method: str, path: str, *headers: str) -> Answer:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, *(["Content-Length: 0"] if method != "GET" else [])]
    return server.send("\r\n".join([*lines, "", ""]).encode())


@pytest.mark.parametrize(("method", "path"), EXAMPLES)
def test_documented_paths_arrive(alone: Alone, method: str, path: str) -> None:
    assert ask(alone, method, path).status == 200
    assert alone.behind.newest()[0][0] == f"{method} {path} http/1.1".lower().encode()


@pytest.mark.parametrize(("method", "path"), EXAMPLES)
def test_administration_needs_the_token(shielded: Shielded, method: str, path: str) -> None:
    if path.endswith(("/unload", "/load")):
        path = path.replace("relu", "idle")
    answer = ask(shielded, method, path)
    if EXAMPLES[method, path.replace("idle", "relu")] in ADMIN_APIS:
        assert (answer.status, TOKEN_HEADER in answer.error) == (403, True)
        wrong = ask(shielded, method, path, f"{TOKEN_HEADER}: {TOKEN}x")
        assert wrong.status == 403
        assert ask(shielded, method, path, f"{TOKEN_HEADER}: {TOKEN}").status != 403
    else:
        assert answer.status != 403


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v2/foo",
        "/V2/health/live",
        "/v2/health/live/",
        "/v2/health/live;a",
        "/v2/models/relu/infer/x",
        "/v2/models/relu/versions/x/infer",
        "/v2/models",
        "/invocations",
        "/ping",
        "/models",
        "/predict",
        "/metrics",
        "/admin",
        "/stats",
        "/quitquitquit",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_not_found(alone: Alone, method: str, path: str) -> None:
    assert ask(alone, method, path).status == 404
    assert not alone.behind.requests


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "FOO"])
def test_other_methods_are_not_found(alone: Alone, method: str) -> None:
    assert ask(alone, method, "/v2/health/live").status in (400, 404)
    assert not alone.behind.requests


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../repository/index",
        "/v2/models/x/%2e%2e/%2e%2e/repository/index",
        "/v2//repository/index",
        "/v2/./repository/index",
        "/v2/repository%2findex",
        "/v2/%72epository/index",
        "/v2/repository/index?/v2/health/live",
        "/v2/repository/index#/v2/health/live",
        "/v2/repository\\index",
        "/v2/models/x%2f..%2f..%2frepository/index",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_token(shielded: Shielded, path: str) -> None:
    answer = ask(shielded, "POST", path)
    assert answer.status in (400, 403, 404)
    assert '"state"' not in answer.body


def test_models_are_loaded_through_the_shield_with_the_token(shielded: Shielded) -> None:
    with shielded.running.http() as client:
        with pytest.raises(InferenceServerException, match="this needs the header tnn-admin-token"):
            client.load_model("idle")
        headers = {TOKEN_HEADER: TOKEN}
        client.load_model("idle", headers=headers)
        index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index(headers)}
        assert index == {"relu": "READY", "idle": "READY"}
        client.unload_model("idle", headers=headers)
    shielded.assert_well()


GRPC_ADMIN = {
    "RepositoryIndex": service_pb2.RepositoryIndexRequest,
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest,
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest,
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest,
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest,
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest,
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest,
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest,
    "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest,
    "TraceSetting": service_pb2.TraceSettingRequest,
    "LogSettings": service_pb2.LogSettingsRequest,
}


@pytest.mark.parametrize("method", GRPC_ADMIN)
def test_administration_over_grpc_needs_the_token(shielded: Shielded, method: str) -> None:
    with grpc.insecure_channel(shielded.running.grpc_url) as channel:
        call = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}", lambda message: message.SerializeToString(), bytes
        )
        for metadata in ((), ((GRPC_PREFIX + TOKEN_HEADER, TOKEN + "x"),)):
            with pytest.raises(grpc.RpcError) as refused:
                call(GRPC_ADMIN[method](), timeout=60, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert GRPC_PREFIX + TOKEN_HEADER in refused.value.details()
        done = call.future(GRPC_ADMIN[method](), timeout=60, metadata=((GRPC_PREFIX + TOKEN_HEADER, TOKEN),))
        assert done.code() is not grpc.StatusCode.PERMISSION_DENIED, done.details()


@pytest.mark.parametrize(
    "method", ["/inference.GRPCInferenceService/Foo", "/grpc.reflection.v1.ServerReflection/List", "/x.Y/Z"]
)
def test_other_grpc_methods_are_unimplemented(shielded: Shielded, method: str) -> None:
    with grpc.insecure_channel(shielded.running.grpc_url) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(method)(b"", timeout=60)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_method_of_the_service_is_listed() -> None:
    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        path = f"/{service.full_name}/{method.name}"
        assert [one for one in paths.GRPC if re.fullmatch(one.pattern, path)], path


def test_grpc_health_check(shielded: Shielded) -> None:
    with tritonclient.grpc.InferenceServerClient(shielded.running.grpc_url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("relu")
    with grpc.insecure_channel(shielded.running.grpc_url) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"


def test_the_metrics_port_has_metrics_alone(shielded: Shielded) -> None:
    metrics = shielded.front.public.endpoint("metrics")
    assert metrics is not None
    answer = send(metrics, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status == 200
    assert "nv_inference_request_success" in answer.body
    assert send(metrics, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n").status == 404
    assert send(metrics, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").status == 404
