"""gRPC calls that break off or bring too much beside the message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.hostile.conftest import Target, bounded

INFER = "/inference.GRPCInferenceService/ModelInfer"
X = np.ones((1, 1, 2, 2), np.float32)


def message() -> bytes:
    """A request that the model answers."""
    made = service_pb2.ModelInferRequest(model_name="relu", raw_input_contents=[X.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=X.shape)
    return bytes(made.SerializeToString())


class Cut:
    """Passes the bytes of one connection on to a server, and breaks off after some of them."""

    def __init__(self, address: str, most: int) -> None:
        host, _, port = address.rpartition(":")
        self._server = socket.create_connection((host, int(port)), timeout=60)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._pass_on, args=[most])
        self._thread.start()

    def _pass_on(self, most: int) -> None:
        client, _ = self._listening.accept()
        back = threading.Thread(target=_copy, args=[self._server, client])
        back.start()
        with client:
            while most and (data := client.recv(min(most, 4096))):
                self._server.sendall(data)
                most -= len(data)
            for one in (self._server, client):
                with suppress(OSError):  # the other side was faster
                    one.shutdown(socket.SHUT_RDWR)
            back.join()
        self._server.close()
        self._listening.close()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # one of them was closed
        while data := source.recv(4096):
            sink.sendall(data)


@bounded
@given(st.integers(1, 700))
def test_calls_that_break_off(target: Target, most: int) -> None:
    """At any byte: of the connection's preface, of the headers, of the message."""
    cut = Cut(target.running.grpc_url, most)
    with grpc.insecure_channel(cut.address, options=[("grpc.enable_retries", 0)]) as channel:
        method = channel.unary_unary(INFER, request_serializer=bytes, response_deserializer=bytes)
        call = method.future(message(), timeout=2)
        cut_short = call.exception(timeout=60)
    cut.join()
    assert cut_short is None or isinstance(cut_short, grpc.RpcError)
    target.assert_well()


keys = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=30).map(lambda text: f"x-{text}")
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100)


@bounded
@given(st.lists(st.tuples(keys, values) | st.tuples(keys.map("{}-bin".format), st.binary(max_size=100)), max_size=50))
def test_metadata_of_any_form(target: Target, metadata: Sequence[tuple[str, str | bytes]]) -> None:
    assert call(target, metadata) in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
    target.assert_well()


@pytest.mark.parametrize(
    "metadata",
    [
        [("x-large", "v" * 1_000_000)],
        [("x-large-bin", b"v" * 1_000_000)],
        [(f"x-{k}", "v" * 100) for k in range(20_000)],
        [("x-same", "v")] * 50_000,
        [("x" * 100_000, "v")],
        [("triton-request-parameter", "v" * 7_000), ("grpc-timeout", "1n")],
    ],
    ids=["value", "binary", "many", "same", "name", "timeout"],
)
def test_metadata_without_end(target: Target, metadata: Sequence[tuple[str, str | bytes]]) -> None:
    for _ in range(5):
        assert call(target, metadata) is not None
    target.assert_well()


def call(target: Target, metadata: Sequence[tuple[str, str | bytes]]) -> grpc.StatusCode:
    """The status of a request with metadata."""
    with grpc.insecure_channel(target.running.grpc_url, options=[("grpc.max_metadata_size", 1 << 27)]) as channel:
        method = channel.unary_unary(INFER, request_serializer=bytes, response_deserializer=bytes)
        try:
            method(message(), metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
