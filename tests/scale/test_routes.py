"""Which server a gateway sends a request to, and which requests it repeats."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.pages import ROOT
from tests.scale.conftest import NO_LIMIT, StartGateway
from tests.scale.recorders import DRAINING, NOT_READY, READY, Recorded, recorders
from tests.servers import DEADLINE_S, wait_for
from tests.shield.test_tls import Authority
from tnn_serving.scale.gateway import SEQUENCE_HEADER, Gateway, Servers
from tnn_serving.shield.configuration import Tls

pytestmark = pytest.mark.slow

X = np.ones((1, 2), np.float32)
MANY = 60


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Servers, list[Recorded]]]:
    with recorders() as found:
        yield found


@pytest.fixture
def servers(running: tuple[Servers, list[Recorded]]) -> Iterator[list[Recorded]]:
    """Three servers that answer, with nothing recorded."""
    _, found = running
    for one in found:
        one.health, one.behaviour = READY, "answers"
        one.released.clear()
        one.requests.clear()
        one.headers.clear()
    yield found
    for one in found:
        one.released.set()


@pytest.fixture
def gateway(running: tuple[Servers, list[Recorded]], servers: list[Recorded], start_gateway: StartGateway) -> Gateway:
    return start_gateway(replace(running[0], repeat_after_s=0.5))


def healthy(gateway: Gateway, name: str = "http") -> int:
    return gateway.statistics(f"^cluster.{name}.membership_healthy$").get(f"cluster.{name}.membership_healthy", -1)


def degraded(gateway: Gateway) -> int:
    return gateway.statistics("^cluster.http.membership_degraded$")["cluster.http.membership_degraded"]


def url(gateway: Gateway, protocol: str) -> str:
    host, port = gateway.listeners[protocol]
    return f"{host}:{port}"


def call(
    gateway: Gateway,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of the answer to one request on a connection of its own."""
    port = gateway.listeners["http"][1]
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    else:
        connection = http.client.HTTPSConnection("localhost", port, timeout=DEADLINE_S, context=tls)
    with closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, dict(json.loads(answer.read() or b"{}"))


Sent = Callable[..., str]


def over_http(gateway: Gateway, parameters: dict[str, Any] | None = None, *, binary: bool = True) -> str:
    """The server that answers an inference."""
    tensor = tritonclient.http.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X, binary_data=binary)
    body, size = tritonclient.http.InferenceServerClient.generate_request_body([tensor], **(parameters or {}))
    headers = {} if size is None else {"Inference-Header-Content-Length": str(size)}
    status, answer = call(gateway, "POST", "/v2/models/m/infer", body, headers)
    if status != 200:
        raise InferenceServerException(str(answer), str(status))
    return str(answer["host"])


def over_grpc(gateway: Gateway, parameters: dict[str, Any] | None = None, **options: Any) -> str:
    tensor = tritonclient.grpc.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    with tritonclient.grpc.InferenceServerClient(url(gateway, "grpc")) as client:
        return str(client.infer("m", [tensor], **(parameters or {}), **options).get_response().model_name)


BOTH = pytest.mark.parametrize("ask", [over_http, over_grpc])


@BOTH
@pytest.mark.parametrize("name", ["{}", "call-{}"])
def test_a_sequence_goes_to_one_server(gateway: Gateway, ask: Sent, name: str) -> None:
    of: dict[int, set[str]] = {}
    for _ in range(3):
        for k in range(1, 13):
            sequence = {"sequence_id": k if name == "{}" else name.format(k), "sequence_start": True}
            of.setdefault(k, set()).add(ask(gateway, sequence))
    assert all(len(hosts) == 1 for hosts in of.values()), of
    assert len(set.union(*of.values())) > 1, "all sequences are at one server"


def test_a_sequence_in_json_alone_goes_to_one_server(gateway: Gateway) -> None:
    assert len({over_http(gateway, {"sequence_id": 7}, binary=False) for _ in range(MANY // 2)}) == 1


def test_a_tensor_with_the_name_of_the_parameter_hides_nothing(gateway: Gateway) -> None:
    body = json.dumps({"inputs": [{"name": "sequence_id"}], "parameters": {"sequence_id": 7}}).encode()
    answers = [call(gateway, "POST", "/v2/models/m/infer", body) for _ in range(MANY // 2)]
    assert len({answer["host"] for _, answer in answers}) == 1
    body = json.dumps({"inputs": [{"name": "sequence_id"}]}).encode()
    answers = [call(gateway, "POST", "/v2/models/m/infer", body) for _ in range(MANY)]
    assert len({answer["host"] for _, answer in answers}) == 3


@BOTH
def test_what_is_no_sequence_goes_to_all(gateway: Gateway, ask: Sent, servers: list[Recorded]) -> None:
    assert len({ask(gateway, {"sequence_id": 0}) for _ in range(MANY)}) == 3
    assert len({ask(gateway, {"request_id": "sequence_id", "priority": 3}) for _ in range(MANY)}) == 3
    assert not any(SEQUENCE_HEADER in headers for one in servers for headers in one.headers)


def test_one_connection_reaches_all_servers(gateway: Gateway, servers: list[Recorded]) -> None:
    host, port = gateway.listeners["http"]
    with closing(http.client.HTTPConnection(host, port, timeout=DEADLINE_S)) as connection:
        for _ in range(MANY):
            connection.request("POST", "/v2/models/m/infer", b"{}")
            assert connection.getresponse().read()
    assert all(one.requests for one in servers)


def test_streams_with_the_same_header_go_to_one_server(gateway: Gateway) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    found = set()
    with grpc.insecure_channel(url(gateway, "grpc")) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )
        for _ in range(20):
            answers = call(iter([request] * 3), metadata=[(SEQUENCE_HEADER, "talk")], timeout=60)
            hosts = {answer.infer_response.model_name for answer in answers}
            assert len(hosts) == 1
            found |= hosts
    assert len(found) == 1


@BOTH
@pytest.mark.parametrize("behaviour", ["refuses", "drops"])
def test_an_inference_that_fails_is_asked_of_another_server(
    gateway: Gateway, servers: list[Recorded], ask: Sent, behaviour: str
) -> None:
    servers[0].behaviour = servers[1].behaviour = behaviour
    for _ in range(20):
        assert ask(gateway) == servers[2].host


@BOTH
@pytest.mark.parametrize("behaviour", ["refuses", "drops"])
def test_a_sequence_is_never_repeated(gateway: Gateway, servers: list[Recorded], ask: Sent, behaviour: str) -> None:
    for one in servers:
        one.behaviour = behaviour
    for k in range(1, 11):
        with pytest.raises(InferenceServerException):
            ask(gateway, {"sequence_id": k})
    assert sum(len(one.requests) for one in servers) == 10


def test_a_compressed_call_is_not_repeated(gateway: Gateway, servers: list[Recorded]) -> None:
    big = {"parameters": {"note": "n" * 1000}}
    over_grpc(gateway, big, compression_algorithm="gzip")
    for one in servers:
        one.requests.clear()
        one.behaviour = "refuses"
    with pytest.raises(InferenceServerException):
        over_grpc(gateway, big, compression_algorithm="gzip")
    assert sum(len(one.requests) for one in servers) == 1


@BOTH
def test_an_inference_without_an_answer_is_asked_of_another_server(
    gateway: Gateway, servers: list[Recorded], ask: Sent
) -> None:
    servers[0].behaviour = servers[1].behaviour = "hangs"
    for _ in range(3):
        assert ask(gateway) == servers[2].host


@BOTH
def test_a_late_first_answer_counts(gateway: Gateway, servers: list[Recorded], ask: Sent) -> None:
    for one in servers:
        one.behaviour = "hangs"

    def release() -> None:
        wait_for(lambda: sum(len(one.requests) for one in servers) >= 2, "another server is asked")
        first = next(one for one in servers if one.requests)
        first.released.set()

    thread = threading.Thread(target=release)
    thread.start()
    assert ask(gateway) in {one.host for one in servers if one.requests}
    thread.join()


def test_servers_that_are_not_ready_get_nothing(gateway: Gateway, servers: list[Recorded]) -> None:
    servers[0].health, servers[1].health = NOT_READY, DRAINING
    wait_for(lambda: healthy(gateway) == 1 and degraded(gateway) == 1, "one is not ready, one drains")
    wait_for_answers_of(gateway, servers[2])
    servers[2].health = NOT_READY
    wait_for(lambda: healthy(gateway) == 0, "only one is left, which drains")
    wait_for_answers_of(gateway, servers[1])
    servers[1].health = NOT_READY
    wait_for(lambda: degraded(gateway) == 0, "none is ready")
    wait_for_answers_of(gateway, *servers)


def wait_for_answers_of(gateway: Gateway, *servers: Recorded) -> None:
    """Envoy's threads learn a moment after its statistics which servers are ready."""
    hosts = {one.host for one in servers}
    wait_for(lambda: {over_http(gateway) for _ in range(MANY)} == hosts, f"only {hosts} answer")


def test_a_name_is_looked_up(start_gateway: StartGateway) -> None:
    with recorders(("127.0.0.1",)) as (at_address, _):
        gateway = start_gateway(replace(at_address, hosts=("localhost",)))
        assert over_http(gateway) == over_grpc(gateway) == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v2/repository/models/m/load", "model-repository"),
        ("/v2/repository/index", "model-repository"),
        ("/v2/systemsharedmemory/region/r/register", "shared-memory"),
        ("/v2/trace/setting", "trace"),
        ("/v2/logging", "logging"),
    ],
)
def test_administration_is_refused(gateway: Gateway, servers: list[Recorded], path: str, api: str) -> None:
    refusal = f"{api} is not served by the gateway: ask each server"
    assert call(gateway, "POST", path, b"{}") == (403, {"error": refusal})
    assert not any(one.requests for one in servers)


def test_administration_over_grpc_is_refused(gateway: Gateway) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(url(gateway, "grpc")) as client,
        pytest.raises(InferenceServerException, match="ask each server") as caught,
    ):
        client.load_model("m")
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


def test_limits_are_those_of_the_shield(gateway: Gateway, servers: list[Recorded]) -> None:
    for method, path, body, status in (
        ("POST", "/v2/models/m/infer", b"[" * 100, 400),
        ("GET", "/metrics", b"", 404),
        ("GET", "/v2/models/m%2F..%2F/ready", b"", 400),
    ):
        assert call(gateway, method, path, body)[0] == status, path
    assert not any(one.requests for one in servers)


@pytest.mark.parametrize("field", [1, 4, 7])
def test_messages_that_are_no_messages_are_the_servers_to_refuse(gateway: Gateway, field: int) -> None:
    """The Lua that looks for sequences takes any bytes."""
    with grpc.insecure_channel(url(gateway, "grpc")) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", lambda data: data, lambda data: data)
        tag = bytes([field << 3 | 2])
        for message in (
            b"",
            tag,
            tag + b"\xff" * 30,
            tag + b"\x7fabc",
            tag + b"\x02\x0a\x7f",
            b"\x00",
        ):
            code = ask.future(message, timeout=DEADLINE_S).code()
            assert code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED), message
    assert over_grpc(gateway)


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "grafana/tnn-gateway.json"])
def test_metrics_that_are_named_exist(gateway: Gateway, file: str) -> None:
    """Alerts and dashboard against what a real gateway shows."""
    over_http(gateway)
    named = set(re.findall(r"envoy_(?:cluster|http)_\w+?(?=[{\\])", (ROOT / "deploy" / file).read_text()))
    port = gateway.listeners["metrics"][1]

    def shown() -> set[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
            return set(re.findall(r"^envoy_\w+", answer.read().decode(), re.MULTILINE))

    assert len(named) > 1
    wait_for(lambda: named <= shown(), f"Envoy has counted {named}")


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_and_the_access_log(
    running: tuple[Servers, list[Recorded]],
    servers: list[Recorded],
    start_gateway: StartGateway,
    tmp_path: Path,
    mutual: bool,
) -> None:
    authority, log = Authority(tmp_path), tmp_path / "access.log"
    chain, key = authority.server
    gateway = start_gateway(running[0], NO_LIMIT, Tls(chain, key, authority.certificate if mutual else None), log)
    ready = ("GET", "/v2/health/ready")
    assert call(gateway, *ready, tls=authority.context(authority.client if mutual else None))[0] == 200
    if mutual:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(gateway, *ready, tls=authority.context())
    (line,) = wait_for(lambda: [*filter(None, log.read_text().splitlines())], "the log is written")
    entry = json.loads(line)
    assert entry["status"] == 200
    assert entry["server"].rpartition(":")[0] in {one.host for one in servers}
    assert bool(entry["certificate"]) == mutual
