"""HTTP/1.1 and gRPC load with h2load, a C program that uses little CPU time on the cores it shares with the server.

It is in the package nghttp2-client of Debian and Ubuntu. A gRPC call is an HTTP/2 request whose body is one message
with a prefix of five bytes, so h2load can send it.
"""

from __future__ import annotations

import math
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from processes import Processes

GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
PATIENCE_S = 30.0
WARM_UP_S = 0.3
WARM_UP_CALLS = 4
READY_CONNECTIONS, READY_S = 16, 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """The request that every connection sends repeatedly, one at a time."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load. ``errors`` are answers other than 200 and lost connections."""

    latencies_ms: np.ndarray
    seconds: float
    errors: int

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self.latencies_ms)

    @property
    def p50_ms(self) -> float:
        """The median latency; NaN without an answer."""
        return self._percentile_ms(50)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of latencies; NaN without an answer."""
        return self._percentile_ms(99)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def _percentile_ms(self, percent: int) -> float:
        return float(np.percentile(self.latencies_ms, percent)) if self.requests else math.nan


def together(windows: Sequence[Load]) -> Load:
    """Several windows as one."""
    latencies_ms = np.concatenate([window.latencies_ms for window in windows])
    return Load(latencies_ms, sum(one.seconds for one in windows), sum(one.errors for one in windows))


def grpc_request(target: str, method: str, message: bytes) -> Request:
    """A unary call of ``method`` (``/package.Service/Method``) at ``host:port``."""
    body = struct.pack(">?I", False, len(message)) + message
    return Request(f"http://{target}{method}", body, GRPC_HEADERS, grpc=True)


def run(request: Request, connections: int, seconds: float) -> Load:
    """Sends the request over ``connections`` connections for about ``seconds``.

    If nothing is answered in that time, it tries once more for four times as long. Raises RuntimeError if nothing is
    answered then either.
    """
    return _run(request, connections, seconds, _rate(request, connections))


def count(request: Request, connections: int, requests: int) -> Load:
    """Sends the request so many times over ``connections`` connections. Raises RuntimeError if nothing is answered."""
    done, output = _h2load(request, connections, ["-n", str(requests)])
    if not done.requests:
        raise RuntimeError(f"no answer from {request.url}:\n{output}")
    return done


def make_ready(request: Request) -> None:
    """Load before the measurement: a server adapts to its load."""
    run(request, READY_CONNECTIONS, READY_S)


def measured(request: Request, processes: Processes, connections: int, seconds: float) -> tuple[Load, float]:
    """One window of load on a server that is frozen before and after, and its CPU time per request in us.

    A short window before it is not counted.
    """
    with processes.thawed():
        rate = _rate(request, connections)
        before_s = processes.cpu_s()
        done = _run(request, connections, seconds, rate)
        cpu_s = processes.cpu_s() - before_s
    return done, cpu_s / done.requests * 1e6


def _rate(request: Request, connections: int) -> float:
    """The approximate number of answers per second. The load of gRPC calls is limited by number, not by time:
    tritonserver occasionally crashes if connections are closed during calls, which happens at the end of a time."""
    if not request.grpc:
        return _h2load(request, connections, ["-D", f"{round(WARM_UP_S * 1e3)}ms"], WARM_UP_S)[0].rate
    few, output = _h2load(request, connections, ["-n", str(WARM_UP_CALLS * connections)])
    if not few.requests:
        raise RuntimeError(f"no answer from {request.url}:\n{output}")
    return _h2load(request, connections, ["-n", str(max(connections, round(few.rate * WARM_UP_S)))])[0].rate


def _run(request: Request, connections: int, seconds: float, rate: float) -> Load:
    for patience in (1, 4):
        if request.grpc:
            count = max(connections, round(patience * rate * seconds))
            answered, output = _h2load(request, connections, ["-n", str(count)])
        else:
            time_s = patience * seconds
            answered, output = _h2load(request, connections, ["-D", f"{round(time_s * 1e3)}ms"], time_s)
        if answered.requests:
            return answered
    raise RuntimeError(f"no answer from {request.url}:\n{output}")


def _h2load(
    request: Request, connections: int, amount: Sequence[str], seconds: float | None = None
) -> tuple[Load, str]:
    """The result of h2load, and its output. Without ``seconds``, the duration is that of its requests."""
    program = shutil.which("h2load")
    if program is None:
        raise RuntimeError("h2load is not installed; on Debian and Ubuntu: apt install nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="tnn-serving-load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(request.body)
        command = [program, "-c", str(connections), "-m", "1", "-t", "1", *amount]
        command += ["-d", str(body), "--log-file", str(log), *(["-p", "h2c"] if request.grpc else ["--h1"])]
        for name, value in request.headers.items():
            command += ["-H", f"{name}: {value}"]
        done = subprocess.run(
            [*command, request.url], capture_output=True, text=True, timeout=(seconds or 0) + PATIENCE_S, check=False
        )
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2) if log.is_file() and log.stat().st_size else np.zeros((0, 3))
    good = rows[:, 1] == 200
    if seconds is None:
        seconds = float((rows[:, 0] + rows[:, 2]).max() - rows[:, 0].min()) / 1e6 if len(rows) else np.nan
    lost = re.search(r"(\d+) errored, (\d+) timeout", done.stdout)
    errors = int((~good).sum()) + (int(lost[1]) + int(lost[2]) if lost else 0)
    return Load(rows[good, 2] / 1e3, seconds, errors), done.stdout[-800:] + done.stderr[-400:]
