"""Tries to administer a server without its token: over HTTP, over gRPC, and at the supervisor's port."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.end_to_end.models import write_model
from tests.hostile.conftest import bounded
from tests.servers import Running, start, wait_for

TOKEN = "a token of thirty-two characters"
HEADER = "tnn-admin-token"
METADATA = "triton-grpc-protocol-tnn-admin-token"
ADMIN = ("v2/repository/models/relu/unload", "v2/repository/models/relu/load", "v2/logging", "v2/trace/setting")


@pytest.fixture(scope="module")
def guarded(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    write_model(folder, "relu")
    running = start([folder], ["--model-control-mode=explicit", "--load-model=relu"], token=TOKEN)
    assert running.ready, running.outcome
    yield running
    assert running.finish() == 0
    running.overlay.close()


def near(token: str) -> st.SearchStrategy[str]:
    """Texts that are much like the token, and others."""
    changed = st.tuples(st.integers(0, len(token) - 1), st.characters(min_codepoint=33, max_codepoint=126)).map(
        lambda change: token[: change[0]] + change[1] + token[change[0] + 1 :]
    )
    forms = [token[:-1], token + "a", token.upper(), token * 2, f"Bearer {token}", f"{token},{token}", token[::-1], ""]
    return (
        changed | st.sampled_from(forms) | st.text(st.characters(codec="ascii", categories=["L", "N", "P"]))
    ).filter(lambda text: text.strip() != token)


@bounded
@given(st.sampled_from(ADMIN), near(TOKEN), st.sampled_from([HEADER, HEADER.upper(), "authorization", "x-admin-token"]))
def test_wrong_tokens_over_http(guarded: Running, path: str, token: str, header: str) -> None:
    connection = http.client.HTTPConnection(guarded.http_url, timeout=60)
    try:
        connection.request("POST", f"/{path}", b"{}", {header: token} if token else {})
        answer = connection.getresponse()
        assert answer.status in (400, 401, 403), answer.read()
    finally:
        connection.close()
    assert_untouched(guarded)


@bounded
@given(near(TOKEN), st.sampled_from([METADATA, HEADER, "authorization"]))
def test_wrong_tokens_over_grpc(guarded: Running, token: str, key: str) -> None:
    with grpc.insecure_channel(guarded.grpc_url) as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            request_serializer=service_pb2.RepositoryModelUnloadRequest.SerializeToString,
            response_deserializer=service_pb2.RepositoryModelUnloadResponse.FromString,
        )
        with pytest.raises(grpc.RpcError):
            method(service_pb2.RepositoryModelUnloadRequest(model_name="relu"), metadata=[(key, token)], timeout=60)
    assert_untouched(guarded)


@bounded
@given(near(TOKEN), st.sampled_from([HEADER, "authorization"]))
def test_wrong_tokens_at_the_port_of_health(guarded: Running, token: str, header: str) -> None:
    """Reasons name files; whether the server is ready is for all."""
    connection = http.client.HTTPConnection(guarded.health_url, timeout=60)
    try:
        connection.request("GET", "/health", headers={header: token} if token else {})
        answer = connection.getresponse()
        assert answer.status in (401, 403)
        assert b"relu" not in answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_right_one_is_taken(guarded: Running, protocol: str) -> None:
    with guarded.http() as http_client, guarded.grpc() as grpc_client:
        if protocol == "http":
            http_client.unload_model("relu", headers={HEADER: TOKEN})
        else:
            grpc_client.unload_model("relu", headers={METADATA: TOKEN})
        wait_for(lambda: not http_client.is_model_ready("relu"), "the model is unloaded")
        http_client.load_model("relu", headers={HEADER: TOKEN})
    assert_untouched(guarded)


def assert_untouched(running: Running) -> None:
    """The model is served, by the process that was started."""
    with running.http() as client:
        assert client.is_model_ready("relu")
    assert not running.restarts
