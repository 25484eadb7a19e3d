"""Requests in a fixed number, and the shared memory that they may use."""

from __future__ import annotations

from pathlib import Path

from tests.servers import Running
from tnn_serving.client.connection import Protocol
from tnn_serving.client.load.loop import Loop
from tnn_serving.client.load.schedule import ClosedLoop, Record

PROTOCOLS: list[Protocol] = ["http", "grpc"]

SHAPE = {"x": (1, 3, 8, 8)}


class Limited(ClosedLoop):
    """``count`` requests, then no more."""

    def __init__(self, count: int) -> None:
        self.left = count

    def take(self, now: float) -> float | None:
        self.left -= 1
        return now if self.left >= 0 else None

    def wait_s(self, now: float) -> float:
        return 0.01


def send(loop: Loop, count: int) -> Record:
    """Sends exactly ``count`` requests and waits for all answers."""
    record = Record()
    loop.run(Limited(count), record, lambda: len(record.ends) + len(record.errors) >= count)
    return record


SHARED_MEMORY = Path("/dev/shm")


def regions(server: Running, pid: int) -> list[str]:
    """The regions of a process that are registered with a server."""
    with server.http() as client:
        names = [region["name"] for region in client.get_system_shared_memory_status()]
    return [name for name in names if name.startswith(_prefix(pid))]


def region_files(pid: int) -> list[Path]:
    """The regions that a process has created."""
    return list(SHARED_MEMORY.glob(f"{_prefix(pid)}*"))


def _prefix(pid: int) -> str:
    return f"tnn-serving-bench-{pid}-"
