"""Clients that are slow, stop half-way, or are very many; a server without file descriptors."""

from __future__ import annotations

import json
import resource
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.end_to_end.models import times
from tests.faults.conftest import MATRIX, SIZE, Served
from tests.servers import wait_for

Serve = Callable[..., Served]

IDLE = 1000
AT_ONCE = 10_000


def address(served: Served) -> tuple[str, int]:
    host, port = served.running.http_url.split(":")
    return host, int(port)


def request_bytes() -> bytes:
    """An inference request of HTTP as it goes over the wire."""
    x = np.ones((1, SIZE, 3, 3), np.float32)
    head = {
        "inputs": [
            {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    return (
        b"POST /v2/models/model/infer HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
        + f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + x.nbytes}\r\n\r\n".encode()
        + text
        + x.tobytes()
    )


def rest_of(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open what the tests need."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE + 500
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"this process may open {before[1]} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], wanted), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_slow_clients_and_clients_that_stop_half_way(serve: Serve) -> None:
    """A request that comes byte by byte is answered in the end, and no other caller waits for it meanwhile."""
    served, request = serve(), request_bytes()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address(served), timeout=30)) for _ in range(20)]
        for position in range(0, len(request) - 1, 16):
            for connection in slow[:10]:
                connection.sendall(request[position : min(position + 16, len(request) - 1)])
            if position % 64 == 0:
                served.check()
        for connection in slow[10:]:  # these stop within the body, and go
            connection.sendall(request[:-40])
            connection.close()
        served.check()
        for connection in slow[:10]:
            connection.sendall(request[-1:])
        answers = [rest_of(connection) for connection in slow[:10]]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    expected = times(MATRIX, np.ones((1, SIZE, 3, 3), np.float32)).astype(np.float32).tobytes()
    assert all(answer.endswith(expected) for answer in answers)
    served.check()


def test_a_client_that_never_reads_its_answer(serve: Serve) -> None:
    served, request = serve(), request_bytes().replace(b"Connection: close\r\n", b"")
    with socket.create_connection(address(served), timeout=30) as deaf:
        deaf.settimeout(2)
        sent = 0
        try:
            for _ in range(2000):
                sent += deaf.send(request)
        except TimeoutError:
            pass  # the buffers between us are full
        assert sent > 10 * len(request)
        served.check()
    served.check()


def test_a_thousand_idle_connections(serve: Serve, many_files: None) -> None:
    served = serve()
    grpc = served.running.grpc_url.split(":")
    with ExitStack() as stack:
        for _ in range(IDLE):
            connection = stack.enter_context(socket.create_connection(address(served), timeout=30))
        for _ in range(IDLE // 10):
            stack.enter_context(socket.create_connection((grpc[0], int(grpc[1])), timeout=30))
        for _ in range(10):
            served.check()
        connection.sendall(request_bytes())  # one that was idle is as good as a new one
        assert rest_of(connection).startswith(b"HTTP/1.1 200")
    served.check()


def send_at_once(served: Served, count: int) -> tuple[Counter[str], int]:
    """So many requests over one connection without waiting for an answer: the errors' texts, and right answers."""
    errors: Counter[str] = Counter()
    right, answered = [0], threading.Semaphore(0)
    lock = threading.Lock()
    inputs, expected = [], []
    for k in range(10):
        x = np.full((1, SIZE, 3, 3), k, np.float32)
        tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        inputs.append(tensor)
        expected.append(times(MATRIX, x))

    def answer_of(k: int) -> Callable[[Any, Any], None]:
        def take(result: Any, error: Any) -> None:
            with lock:
                if error is not None:
                    errors[error.message()] += 1
                elif np.array_equal(result.as_numpy("y"), expected[k]):
                    right[0] += 1
                else:
                    errors["a wrong answer"] += 1
            answered.release()

        return take

    with served.running.grpc() as client:
        takers = [answer_of(k) for k in range(10)]
        for n in range(count):
            client.async_infer("model", [inputs[n % 10]], takers[n % 10])
        for n in range(count):
            assert answered.acquire(timeout=60), f"{n} of {count} answers came"
    return errors, right[0]


def test_ten_thousand_requests_at_once(serve: Serve) -> None:
    """All of them are answered: nothing is lost, whatever waits."""
    served = serve()
    errors, right = send_at_once(served, AT_ONCE)
    assert (right, errors) == (AT_ONCE, Counter())
    served.check()


def test_more_requests_than_may_wait(serve: Serve) -> None:
    """With a bounded queue those that find no room are told so, and all others answered."""
    served = serve()
    policy = "dynamic_batching { default_queue_policy { max_queue_size: 64 } }"
    (served.repository / "model" / "config.pbtxt").write_text(f"max_batch_size: 4\n{policy}\n")
    with served.running.http() as client:
        wait_for(lambda: linked(served, "max_queue_size"), "the configuration is linked")
        client.load_model("model")
    errors, right = send_at_once(served, AT_ONCE // 2)
    assert right + errors.total() == AT_ONCE // 2
    assert right > 64
    assert all("maximum queue size" in text for text in errors)
    served.check()


def linked(served: Served, text: str) -> bool:
    (location,) = served.running.overlay.locations
    return text in (Path(location) / "model" / "config.pbtxt").read_text()


def test_out_of_file_descriptors(serve: Serve, many_files: None) -> None:
    """Connections beyond the limit wait, and all is well when there is room again; what is served goes on."""
    served = serve()
    before = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    with served.running.http() as client:
        served.check(client)  # this connection stays open
        limit = len(list(Path(f"/proc/{served.pid}/fd").iterdir())) + 20
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(address(served), timeout=30))
            wait_for(lambda: full(served, limit), "all file descriptors are used")
            for _ in range(10):
                served.check(client)
        wait_for(lambda: not full(served, limit), "the connections are gone")
        served.check()  # over a new one
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, before)


def test_a_load_without_file_descriptors_changes_nothing(serve: Serve) -> None:
    """tritonserver answers that all is well, but its log has the reason, and what was loaded goes on serving."""
    served = serve()
    before = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    with served.running.http() as client:
        served.check(client)
        (served.repository / "model" / "1" / "model.tnnmodel").touch()  # or there would be nothing to load
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (8, before[1]))  # fewer than are open
        client.load_model("model")
        served.check(client)
        wait_for(lambda: served.logged("model_repository_manager", "failed to open directory"), "the log says why")
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, before)
        client.load_model("model")
        served.check(client)


def full(served: Served, limit: int) -> bool:
    return len(list(Path(f"/proc/{served.pid}/fd").iterdir())) >= limit
