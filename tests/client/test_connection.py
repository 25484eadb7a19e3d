"""Addresses, and the errors where no Triton server answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tnn_serving.client.connection import ModelInfo, Protocol, TensorInfo, connect, parse_url
from tnn_serving.errors import ConfigError, RequestError, ServerError

ADDRESSES: list[tuple[str | None, Protocol | None, str]] = [
    (None, None, "http://127.0.0.1:8000"),
    (None, "grpc", "grpc://127.0.0.1:8001"),
    ("server", None, "http://server:8000"),
    ("server", "grpc", "grpc://server:8001"),
    ("server:9000", None, "http://server:9000"),
    ("http://server:9000/", None, "http://server:9000"),
    ("https://server:443/triton", "http", "https://server:443/triton"),
    ("grpc://server", None, "grpc://server:8001"),
    ("grpcs://server:1", "grpc", "grpcs://server:1"),
    ("[::1]:8000", None, "http://[::1]:8000"),
]


@pytest.mark.parametrize(("url", "protocol", "meant"), ADDRESSES)
def test_addresses(url: str | None, protocol: Protocol | None, meant: str) -> None:
    assert parse_url(url, protocol).url == meant


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("ftp://server", None),
        ("http://server", "grpc"),
        ("grpc://server", "http"),
        ("server:port", None),
        ("server:99999", None),
        ("http://", None),
        ("grpc://server/path", None),
        ("http://server?x=1", None),
    ],
)
def test_addresses_that_are_refused(url: str, protocol: Protocol | None) -> None:
    with pytest.raises(ConfigError):
        parse_url(url, protocol)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def smtp_port() -> Iterator[int]:
    """The port of a server that does not speak HTTP."""
    server = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(10)
                connection.sendall(b"220 mail.example ESMTP\r\n")

    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_server(free_port: int, protocol: Protocol) -> None:
    with (
        connect(f"127.0.0.1:{free_port}", protocol) as connection,
        pytest.raises(ServerError, match=f"no answer from {protocol}://127.0.0.1:{free_port}") as caught,
    ):
        connection.model("classification")
    assert "tnn-serving serve" in str(caught.value.hint)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_another_kind_of_server(smtp_port: int, protocol: Protocol) -> None:
    with connect(f"127.0.0.1:{smtp_port}", protocol, timeout_s=5) as connection, pytest.raises(ServerError):
        connection.model("classification")


def test_an_unknown_host() -> None:
    with connect("host.invalid", "http") as connection, pytest.raises(ServerError, match="no answer"):
        connection.ready_models()


def info(*inputs: TensorInfo) -> ModelInfo:
    return ModelInfo("m", inputs, (), 0)


@pytest.mark.parametrize(
    ("datatype", "shape"), [("UINT8", (-1, -1, 3)), ("UINT8", (-1, 224, 224, 3)), ("BYTES", (1,)), ("BYTES", (-1, 1))]
)
def test_picture_inputs(datatype: str, shape: tuple[int, ...]) -> None:
    item = TensorInfo("x", datatype, shape)
    assert info(item).picture_input == item


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (TensorInfo("x", "FP32", (1, 3, 224, 224)),),
        (TensorInfo("x", "UINT8", (-1, -1, 4)),),
        (TensorInfo("x", "UINT8", (-1, -1, 3)), TensorInfo("y", "FP32", (1,))),
    ],
)
def test_models_that_take_no_picture(inputs: tuple[TensorInfo, ...]) -> None:
    with pytest.raises(RequestError, match="does not take one picture"):
        _ = info(*inputs).picture_input
