"""The health endpoint as a network server: probes are answered although other callers hold connections."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tnn_serving.triton import health_port
from tnn_serving.triton.health_port import HealthPort
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.monitor import Monitor

pytestmark = pytest.mark.slow


@pytest.fixture
def port() -> Iterator[int]:
    """A health port over a monitor whose server has not been started."""
    server = HealthPort("127.0.0.1", 0, Monitor(Launch(("tritonserver",), {})))
    yield server.server_address[1]
    server.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_before_the_first_start(port: int) -> None:
    assert get(port, "/health/live") == (200, "live\n")
    status, text = get(port, "/health/ready")
    assert status == 503
    assert "starting" in text
    assert get(port, "/health/ready?probe=1")[0] == 503
    assert get(port, "/health/ready", "HEAD") == (503, "")
    assert "tnn_supervisor_up 0.0" in get(port, "/metrics")[1]


def test_a_gateway_prefers_other_servers_to_one_that_stops() -> None:
    monitor = Monitor(Launch(("tritonserver",), {}))
    server = HealthPort("127.0.0.1", 0, monitor)
    try:
        port = server.server_address[1]
        assert get(port, health_port.GATEWAY_PATH)[0] == 503
        monitor.stopping()
        assert get(port, health_port.GATEWAY_PATH) == (200, "draining\n")
        assert get(port, "/health/ready")[0] == 503
    finally:
        server.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    assert get(port, "/health", method)[0] == 501


def test_one_request_per_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 2)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"200 OK") == 1


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_slow_callers_are_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_port, "REQUEST_S", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        deadline = time.monotonic() + 10
        connection.settimeout(0.05)
        while time.monotonic() < deadline:  # occasional bytes prevent the timeout of a single read
            try:
                connection.sendall(b"G")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("still open")
    assert get(port, "/health/live")[0] == 200


def test_held_connections_do_not_block_other_callers(port: int) -> None:
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(health_port.CONNECTIONS + 10)
        ]
        assert get(port, "/health/live")[0] == 200
        assert closed(held[0])


@pytest.mark.parametrize(
    "request_text", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\xff\x80\r\n\r\n", b"GET /" + b"a" * 100_000]
)
def test_invalid_requests_do_no_harm(port: int, request_text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(request_text)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # it may have closed the connection
            pass
    assert get(port, "/health/live")[0] == 200
