"""The server's side of a measurement: Triton's statistics and the server's CPU time."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass

import psutil

from tnn_serving.client.connection import Address, Connection
from tnn_serving.client.load.schedule import clock

SERVER_PROCESS = "tritonserver"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment.

    Attributes:
        at: in seconds of :data:`tnn_serving.client.load.schedule.clock`.
        statistics: see :meth:`tnn_serving.client.Connection.statistics`.
        server_cpu_s: CPU time of the server and its children so far; ``None`` if unknown.
        client_cpu_s: CPU time of this process so far.
    """

    at: float
    statistics: dict[str, int]
    server_cpu_s: float | None
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server's share of the requests between two snapshots.

    Attributes:
        requests: successful requests.
        executions: of the backend; with dynamic batching, one execution may contain several requests.
        average_batch: rows per execution.
        total_ms: mean time of a request inside Triton. The following times are parts of it.
        queue_ms: waiting for an instance.
        compute_input_ms: gathering inputs.
        compute_infer_ms: inside the backend.
        compute_output_ms: returning outputs.
        cpu_us: CPU time of the server per request, in microseconds; ``None`` if unknown.
    """

    requests: int
    executions: int
    average_batch: float
    total_ms: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    cpu_us: float | None


class ServerObserver:
    """Takes snapshots of a model's server.

    Args:
        connection: to the server.
        model: name of the model.
        pid: of the server process; by default found by its port, if the server is on this machine.
    """

    def __init__(self, connection: Connection, model: str, pid: int | None = None) -> None:
        self._connection = connection
        self._model = model
        self._pid = pid if pid is not None else local_server(connection.address)

    def snapshot(self) -> Snapshot:
        """The counters now. Raises ServerError, RequestError."""
        statistics = self._connection.statistics(self._model)
        cpu_s = None if self._pid is None else cpu_time_s(self._pid)
        return Snapshot(clock(), statistics, cpu_s, time.process_time())


def server_side(before: Snapshot, after: Snapshot, answered: int) -> ServerSide | None:
    """The server's figures between two snapshots; ``None`` if the server counted no request.

    Args:
        answered: requests that the client counted in the same time; CPU time is divided by it.
    """
    count = {key: after.statistics[key] - before.statistics[key] for key in after.statistics}
    requests, executions = count["requests"], count["executions"]
    if requests <= 0:
        return None
    cpu_us = None
    if before.server_cpu_s is not None and after.server_cpu_s is not None and answered:
        cpu_us = (after.server_cpu_s - before.server_cpu_s) / answered * 1e6

    def mean_ms(phase: str) -> float:
        return count[f"{phase}_ns"] / requests / 1e6

    return ServerSide(
        requests=requests,
        executions=executions,
        average_batch=count["inferences"] / executions if executions else 0.0,
        total_ms=mean_ms("success"),
        queue_ms=mean_ms("queue"),
        compute_input_ms=mean_ms("compute_input"),
        compute_infer_ms=mean_ms("compute_infer"),
        compute_output_ms=mean_ms("compute_output"),
        cpu_us=cpu_us,
    )


def local_server(address: Address) -> int | None:
    """The process id of the tritonserver at an address of this machine; ``None`` if unknown."""
    host, _, port = address.target.partition("/")[0].rpartition(":")
    try:
        local = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local:
        return None
    try:
        listening = {
            entry.pid
            for entry in psutil.net_connections("tcp")
            if entry.status == psutil.CONN_LISTEN and entry.laddr.port == int(port) and entry.pid
        }
        named = [pid for pid in listening if psutil.Process(pid).name() == SERVER_PROCESS]
    except (psutil.Error, OSError):
        return None
    return named[0] if len(named) == 1 else None


def cpu_time_s(pid: int) -> float | None:
    """User and system time of a process and its children; ``None`` if it has ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)
    except psutil.Error:
        return None
