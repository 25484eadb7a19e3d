"""Requests over connections that are kept open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.client.load.sending import PROTOCOLS, SHAPE, send
from tests.servers import Running, wait_for
from tnn_serving.client.connection import Protocol
from tnn_serving.client.load import LoadTarget
from tnn_serving.client.load.grpc import GrpcConnection
from tnn_serving.client.load.http import HttpConnection
from tnn_serving.client.load.loop import LoadConnection, Loop
from tnn_serving.client.load.measurement import error_counts
from tnn_serving.client.load.message import INLINE, RequestInput, grpc_request, http_request


@pytest.mark.parametrize("slots", [1, 5])
def test_every_request_reaches_the_server_once(address: str, slots: int) -> None:
    with LoadTarget(address, "counted", shapes=SHAPE, verify=True) as target:
        before = target.connection.statistics("counted")["requests"]
        with target.loop(slots) as loop:
            record = send(loop, 200)
        assert record.errors == []
        assert len(record.ends) == len(record.latencies) == 200
        wait_for(lambda: target.connection.statistics("counted")["requests"] >= before + 200, "all are counted")
        assert target.connection.statistics("counted")["requests"] == before + 200


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 64, 65), (1, 3, 224, 224), (1, 3, 1000, 1001)])
@pytest.mark.parametrize("shared_memory", ["none", "system"])
def test_answers_of_all_sizes_are_right(address: str, shape: tuple[int, ...], shared_memory: Any) -> None:
    with (
        LoadTarget(address, "relu", shapes={"x": shape}, shared_memory=shared_memory, verify=True) as target,
        target.loop(3) as loop,
    ):
        assert send(loop, 12).errors == []


def test_a_wrong_answer_is_an_error(address: str) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, verify=True) as target:
        target.outputs = {"y": target.outputs["y"] + np.float32(0.5)}
        with target.loop(2) as loop:
            record = send(loop, 6)
    assert len(record.ends) == 0
    assert error_counts(record.errors) == {"output `y` differs from the first answer": 6}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_requests_are_counted_with_the_servers_message(loaded: Running, protocol: Protocol) -> None:
    with LoadTarget(loaded.address(protocol), "relu", shapes=SHAPE) as target:
        # Larger than what gRPC sends at once, so the refusal may arrive before the end of the request.
        sent = [RequestInput("x", "INT32", (1, 3, 256, 256), bytes(4 * 3 * 256 * 256))]
        made: list[LoadConnection] = []
        for slot in range(2):
            if protocol == "http":
                made.append(
                    HttpConnection(target.address, slot, http_request(target.address, target.info, sent, INLINE))
                )
            else:
                made.append(GrpcConnection(target.address, slot, grpc_request(target.info, sent, INLINE)))
        loop = Loop(target.address, made)
        record = send(loop, 8)
        loop.close()
    assert len(record.ends) == 0
    (text, count), *more = error_counts(record.errors).items()
    assert (count, more) == (8, [])
    assert text.startswith("400 Bad Request: " if protocol == "http" else "INVALID_ARGUMENT: ")
    assert "INT32" in text
    assert "FP32" in text
