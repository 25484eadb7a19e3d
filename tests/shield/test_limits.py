"""Limits on time, rate and connections, with an Envoy of its own for each."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.servers import wait_for
from tests.shield.conftest import Alone, StartAlone
from tests.shield.raw import INFER, JSON, connect, read_answer, with_length
from tnn_serving.shield.configuration import CallerLimits

pytestmark = pytest.mark.slow


def refused(alone: Alone, cause: str) -> float:
    """How often something was refused, as the metrics say."""
    (metric,) = (one for one in alone.front.metrics() if one.name == "tnn_shield_refused")
    (value,) = (sample.value for sample in metric.samples if sample.labels["cause"] == cause)
    return float(value)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v2/mod",
        INFER + b"X: ",
        INFER + b"Content-Length: 100\r\n\r\n{",
        INFER + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["nothing", "a line", "a header", "a body", "chunks"],
)
def test_slow_senders_are_cut_off(start_alone: StartAlone, sent: bytes) -> None:
    alone = start_alone(CallerLimits(headers_s=0.5, request_s=1.0, idle_s=1.0))
    with connect(alone.address) as connection:
        connection.sendall(sent)
        answer = read_answer(connection)  # ends with the answer or the connection, not with a timeout of this side
    assert answer.status in (0, 408)
    assert not alone.behind.requests
    assert refused(alone, "slow") == (sent != b"")


def test_a_sender_of_single_bytes_is_cut_off(start_alone: StartAlone) -> None:
    alone = start_alone(CallerLimits(headers_s=0.5, request_s=1.0))
    with connect(alone.address) as connection:
        connection.sendall(INFER + b"Content-Length: 1000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            _drip(connection)


def _drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def test_a_caller_above_its_rate_is_refused(start_alone: StartAlone) -> None:
    alone = start_alone(CallerLimits(client_rate=5))
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.%d\r\n\r\n"
    answers = [alone.send(request % k) for k in range(100)]
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}
    assert statuses[200] == len(alone.behind.requests) < 50
    (other,) = {answer.error for answer in answers if answer.status == 429}
    assert "rate" in other
    assert refused(alone, "rate") == statuses[429]
    with socket.socket() as neighbour:  # another address of this machine
        neighbour.bind(("127.0.0.2", 0))
        neighbour.connect(alone.address)
        neighbour.settimeout(60)
        neighbour.sendall(with_length(JSON))
        assert read_answer(neighbour).status == 200
    wait_for(lambda: alone.send(request % 0).status == 200, "the caller may send again")


def test_connections_beyond_the_limit_are_closed_at_once(start_alone: StartAlone) -> None:
    alone = start_alone(CallerLimits(connections=20))
    connections = [connect(alone.address) for _ in range(40)]
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    statuses: Counter[int] = Counter()
    for connection in connections:
        try:
            connection.sendall(request)
            statuses[read_answer(connection).status] += 1
        except ConnectionError:
            statuses[0] += 1
    assert statuses == {200: 20, 0: 20}
    assert refused(alone, "connections") == 20
    for connection in connections:
        connection.close()
    wait_for(lambda: alone.send(request).status == 200, "connections are free again")


def test_every_request_has_a_line_in_the_access_log(start_alone: StartAlone, tmp_path: Path) -> None:
    alone = start_alone(log=tmp_path / "access.log")
    alone.send(with_length(JSON))
    alone.send(with_length(b"[" * 100))
    alone.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    lines = wait_for(lambda: _three_lines(tmp_path / "access.log"), "three lines")
    entries = [json.loads(line) for line in lines]
    assert [entry["status"] for entry in entries] == [200, 400, 404]
    assert [entry["path"] for entry in entries] == ["/v2/models/relu/infer"] * 2 + ["/nothing"]
    assert entries[0]["received_bytes"] == len(JSON)
    assert all(entry["client"].startswith("127.0.0.1:") for entry in entries)


def _three_lines(file: Path) -> list[str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return lines if len(lines) == 3 else []
