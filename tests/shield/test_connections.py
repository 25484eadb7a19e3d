"""Bursts of new connections through the shield, each with one small request: all are answered or refused at once."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.servers import wait_for
from tests.shield.conftest import Shielded
from tests.shield.raw import JSON, with_length
from tnn_serving.shield.clusters import SERVER_CONNECTIONS

BURSTS = [300, 600, 1000, 2000, pytest.param(10_000, marks=pytest.mark.slow)]
LONGEST_S = 240.0


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many descriptors as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def burst(address: tuple[str, int], connections: int) -> Counter[str]:
    """Connects so many times, sends one request on each connection, and counts the outcomes: a status, or "refused"."""
    request = with_length(JSON)
    waiting: dict[int, socket.socket] = {}
    found: Counter[str] = Counter()
    poll = select.epoll()
    for _ in range(connections):
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(address)
        poll.register(connection.fileno(), select.EPOLLOUT)
        waiting[connection.fileno()] = connection
    deadline = time.monotonic() + LONGEST_S
    while waiting and time.monotonic() < deadline:
        for descriptor, event in poll.poll(1.0):
            connection = waiting[descriptor]
            try:
                if event & select.EPOLLOUT and not event & select.EPOLLERR:
                    connection.sendall(request)
                    poll.modify(descriptor, select.EPOLLIN)
                    continue
                outcome = connection.recv(4096)[9:12].decode() or "refused"
            except OSError:
                outcome = "refused"
            found[outcome] += 1
            poll.unregister(descriptor)
            waiting.pop(descriptor).close()
    for connection in waiting.values():
        connection.close()
    return found


@pytest.mark.parametrize("connections", BURSTS)
def test_a_burst_of_connections(shielded: Shielded, descriptors: int, connections: int) -> None:
    if descriptors < connections + 200:
        pytest.skip(f"this process may have {descriptors} descriptors only")
    tritonserver, front = psutil.Process(shielded.pid), psutil.Process(shielded.front.pid)
    before = front.num_fds()
    found = burst(shielded.address, connections)
    assert sum(found.values()) == connections, "some were neither answered nor refused"
    assert set(found) <= {"200", "429", "refused"}
    assert found["200"] >= connections // 2
    accepted = [one for one in tritonserver.net_connections("tcp") if one.status != psutil.CONN_LISTEN]
    assert len(accepted) <= 3 * SERVER_CONNECTIONS
    wait_for(lambda: front.num_fds() <= before + SERVER_CONNECTIONS + 10, "descriptors are given back")
    shielded.assert_well()
    assert os.path.exists(f"/proc/{shielded.pid}")
