"""The official clients work through the shield as they do without it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, shared_memory

from tests.servers import ask
from tests.shield.conftest import TOKEN, Shielded
from tests.shield.raw import INFER, connect
from tnn_serving.triton.access import GRPC_PREFIX, TOKEN_HEADER

X = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
Y = np.maximum(X, 0)


def inputs(module: Any, array: np.ndarray, **options: Any) -> list[Any]:
    tensor = module.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, **options)
    return [tensor]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_http(shielded: Shielded, binary_in: bool, binary_out: bool) -> None:
    outputs = [tritonclient.http.InferRequestedOutput("y", binary_data=binary_out)]
    with shielded.running.http() as client:
        found = client.infer("relu", inputs(tritonclient.http, X, binary_data=binary_in), outputs=outputs)
    np.testing.assert_allclose(found.as_numpy("y"), Y, rtol=1e-6)


@pytest.mark.parametrize("request_algorithm", [None, "gzip"])
@pytest.mark.parametrize("response_algorithm", [None, "gzip", "deflate"])
def test_http_with_compression(
    shielded: Shielded, request_algorithm: str | None, response_algorithm: str | None
) -> None:
    with shielded.running.http() as client:
        found = client.infer(
            "relu",
            inputs(tritonclient.http, X),
            request_compression_algorithm=request_algorithm,
            response_compression_algorithm=response_algorithm,
        )
    np.testing.assert_array_equal(found.as_numpy("y"), Y)


def test_http_with_deflate_is_refused_with_the_reason(shielded: Shielded) -> None:
    with shielded.running.http() as client, pytest.raises(InferenceServerException, match="with gzip only"):
        client.infer("relu", inputs(tritonclient.http, X), request_compression_algorithm="deflate")


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_grpc(shielded: Shielded, algorithm: str | None) -> None:
    with shielded.running.grpc() as client:
        found = client.infer("relu", inputs(tritonclient.grpc, X), compression_algorithm=algorithm)
    np.testing.assert_array_equal(found.as_numpy("y"), Y)


def test_many_at_once_over_http_and_grpc(shielded: Shielded) -> None:
    rows = [np.full((1, 1, 2, 2), k - 32.0, np.float32) for k in range(64)]
    with tritonclient.http.InferenceServerClient(shielded.running.http_url, concurrency=64) as client:
        waiting = [client.async_infer("relu", inputs(tritonclient.http, row)) for row in rows]
        for row, answer in zip(rows, waiting, strict=True):
            np.testing.assert_array_equal(answer.get_result().as_numpy("y"), np.maximum(row, 0))
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with shielded.running.grpc() as client:
        for k, row in enumerate(rows):
            client.async_infer(
                "relu",
                inputs(tritonclient.grpc, row),
                lambda result, error: answers.put((result, error)),
                request_id=str(k),
            )
        for _ in rows:
            result, error = answers.get(timeout=60)
            assert error is None
            row = rows[int(result.get_response().id)]
            np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(row, 0))


def test_asyncio(shielded: Shielded) -> None:
    async def run() -> None:
        for module, url in (
            (tritonclient.http, shielded.running.http_url),
            (tritonclient.grpc, shielded.running.grpc_url),
        ):
            async with module.aio.InferenceServerClient(url) as client:
                assert await client.is_server_ready()
                found = await asyncio.gather(*(client.infer("relu", inputs(module, X)) for _ in range(4)))
                for one in found:
                    np.testing.assert_array_equal(one.as_numpy("y"), Y)

    asyncio.run(run())


def test_grpc_stream(shielded: Shielded) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with shielded.running.grpc() as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for k in range(20):
            client.async_stream_infer("relu", inputs(tritonclient.grpc, X + k), request_id=str(k))
        for _ in range(20):
            result, error = answers.get(timeout=60)
            assert error is None
            np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(X + int(result.get_response().id), 0))
        client.stop_stream()


def test_cancelled_calls(shielded: Shielded) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with shielded.running.grpc() as client:
        call = client.async_infer("relu", inputs(tritonclient.grpc, X), lambda result, error: answers.put(error))
        call.cancel()
        error = answers.get(timeout=60)
        assert error is None or "cancelled" in str(error).lower()
    shielded.assert_well()


@contextmanager
def region(name: str, size: int) -> Any:
    handle = shared_memory.create_shared_memory_region(name, f"/{name}", size)
    try:
        yield handle
    finally:
        shared_memory.destroy_shared_memory_region(handle)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_shared_memory(shielded: Shielded, protocol: str) -> None:
    module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    make: Callable[[], Any] = getattr(shielded.running, protocol)
    headers = {(GRPC_PREFIX if protocol == "grpc" else "") + TOKEN_HEADER: TOKEN}
    with region("shielded_in", X.nbytes) as source, region("shielded_out", X.nbytes) as target, make() as client:
        shared_memory.set_shared_memory_region(source, [X])
        for name in ("shielded_in", "shielded_out"):
            client.register_system_shared_memory(name, f"/{name}", X.nbytes, headers=headers)
        try:
            tensor = module.InferInput("x", list(X.shape), "FP32")
            tensor.set_shared_memory("shielded_in", X.nbytes)
            output = module.InferRequestedOutput("y")
            output.set_shared_memory("shielded_out", X.nbytes)
            client.infer("relu", [tensor], outputs=[output])
            np.testing.assert_array_equal(shared_memory.get_contents_as_numpy(target, np.float32, X.shape), Y)
        finally:
            client.unregister_system_shared_memory(headers=headers)


def test_errors_of_the_server_arrive(shielded: Shielded) -> None:
    for module, make in ((tritonclient.http, shielded.running.http), (tritonclient.grpc, shielded.running.grpc)):
        with make() as client:
            with pytest.raises(InferenceServerException, match="unknown model"):
                ask((module, client), "nothing", X)
            tensor = module.InferInput("z", [1], "FP32")
            tensor.set_data_from_numpy(np.zeros(1, np.float32))
            with pytest.raises(InferenceServerException, match="unexpected inference input 'z'"):
                client.infer("relu", [tensor])


def test_neighbours_are_answered_while_callers_send_slowly(shielded: Shielded) -> None:
    slow = [connect(shielded.address) for _ in range(200)]
    for connection in slow:
        connection.sendall(INFER + b"Content-Length: 100\r\n\r\n{")
    shielded.assert_well()
    for connection in slow:
        connection.close()
