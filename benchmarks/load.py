"""HTTP/1.1 and gRPC load by h2load, a C program that takes little of the cores which it shares with the server.

Debian and Ubuntu have it in the package nghttp2-client. A gRPC call is an HTTP/2 request whose body is one message with
five bytes before it, so h2load can send it.
"""

from __future__ import annotations

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
    """What every connection sends again and again, one at a time."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. ``errors`` are answers other than 200 and lost connections."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def grpc_request(target: str, method: str, message: bytes) -> Request:
    """A unary call of ``method`` (``/package.Service/Method``) at ``host:port``."""
    body = struct.pack(">?I", False, len(message)) + message
    return Request(f"http://{target}{method}", body, GRPC_HEADERS, grpc=True)


def run(request: Request, connections: int, seconds: float) -> Load:
    """Sends the request over so many connections for about so long.

    When nothing was answered in that time, it is tried once more for four times as long. Raises RuntimeError when
    nothing is answered at all.
    """
    return _run(request, connections, seconds, _rate(request, connections))


def make_ready(request: Request) -> None:
    """Load before anything is measured: a server makes itself ready for the load that it gets."""
    run(request, READY_CONNECTIONS, READY_S)


def measured(request: Request, processes: Processes, connections: int, seconds: float) -> tuple[Load, float]:
    """One window of load on a server that is frozen before and after, and its CPU time per request in us.

    A short window that does not count comes first.
    """
    with processes.thawed():
        rate = _rate(request, connections)
        before_s = processes.cpu_s()
        done = _run(request, connections, seconds, rate)
        cpu_s = processes.cpu_s() - before_s
    return done, cpu_s / done.requests * 1e6


def _rate(request: Request, connections: int) -> float:
    """About how many requests a second are answered. Calls over gRPC are counted, not timed: tritonserver crashes now
    and then when connections are closed with calls under way, which is how a time would end them."""
    if not request.grpc:
        return _h2load(request, connections, ["-D", f"{round(WARM_UP_S * 1e3)}ms"], WARM_UP_S)[0].rate
    few, told = _h2load(request, connections, ["-n", str(WARM_UP_CALLS * connections)])
    if not few.requests:
        raise RuntimeError(f"{request.url} answered nothing:\n{told}")
    return _h2load(request, connections, ["-n", str(max(connections, round(few.rate * WARM_UP_S)))])[0].rate


def _run(request: Request, connections: int, seconds: float, rate: float) -> Load:
    for patience in (1, 4):
        if request.grpc:
            count = max(connections, round(patience * rate * seconds))
            answered, told = _h2load(request, connections, ["-n", str(count)])
        else:
            time_s = patience * seconds
            answered, told = _h2load(request, connections, ["-D", f"{round(time_s * 1e3)}ms"], time_s)
        if answered.requests:
            return answered
    raise RuntimeError(f"{request.url} answered nothing:\n{told}")


def _h2load(
    request: Request, connections: int, amount: Sequence[str], seconds: float | None = None
) -> tuple[Load, str]:
    """What h2load found, and what it printed. Without ``seconds``, it took as long as its requests."""
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
    took_ms = rows[good, 2] / 1e3
    p50_ms, p99_ms = np.percentile(took_ms, [50, 99]) if good.any() else (np.nan, np.nan)
    if seconds is None:
        seconds = float((rows[:, 0] + rows[:, 2]).max() - rows[:, 0].min()) / 1e6 if len(rows) else np.nan
    lost = re.search(r"(\d+) errored, (\d+) timeout", done.stdout)
    errors = int((~good).sum()) + (int(lost[1]) + int(lost[2]) if lost else 0)
    return Load(int(good.sum()), seconds, float(p50_ms), float(p99_ms), errors), done.stdout[-800:] + done.stderr[-400:]
