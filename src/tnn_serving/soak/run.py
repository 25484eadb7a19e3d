"""The soak test: starts a server, puts it under load, samples its memory."""

from __future__ import annotations

import math
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.http

from tnn_serving.client.connection import connect
from tnn_serving.errors import ServerError
from tnn_serving.soak.growth import Growth, Verdict, fit_growth
from tnn_serving.soak.models import write_models
from tnn_serving.soak.requests import SoakModel, find_shapes
from tnn_serving.soak.traffic import Counts, Traffic
from tnn_serving.triton.background_server import BackgroundServer

SAMPLES = 200
"""How many a long run has: each of them stops the load for a moment."""

SAMPLE_INTERVAL_S = 2.0
"""Shortest time between samples, in which the load goes on."""

LOG_LINES_SHOWN = 60
"""Last lines of the server's log, shown if the server ends."""


@dataclass(frozen=True, slots=True)
class Soak:
    """The result of a soak test.

    Attributes:
        seconds: duration of the load.
        requests: total; of these, ``answered``, ``refused`` and ``cancelled`` as expected.
        shared: answered requests whose inputs were in shared memory.
        reloads: how often models were loaded again.
        failures: how often each unexpected outcome occurred.
        shapes: number of different input shapes by model.
        times_s, memory_mb: samples of the memory (PSS) of all server processes at rest; MB are 10^6 bytes.
        anonymous_mb: the part of it that is not pages of files. These cannot leak, and a process's share of them
            changes with the other processes of the machine that map the same files.
        growth: the line through that part; ``None`` if the run was too short.
        allowed_mb_per_hour: threshold of the verdict.
        verdict: on the line; ``None`` without one.
        interrupted: by Ctrl-C.
    """

    seconds: float
    requests: int
    answered: int
    refused: int
    cancelled: int
    shared: int
    reloads: int
    failures: dict[str, int]
    shapes: dict[str, int]
    times_s: list[float]
    memory_mb: list[float]
    anonymous_mb: list[float]
    growth: Growth | None
    allowed_mb_per_hour: float
    verdict: Verdict | None
    interrupted: bool

    @property
    def good(self) -> bool:
        """Whether no memory growth was detected and nothing failed."""
        return self.verdict is not Verdict.GROWS and not self.failures


OnSample = Callable[[float, int, float], None]
"""Called with the seconds since the start, the number of requests, and the memory in MB."""


def _silent(seconds: float, requests: int, memory_mb: float) -> None:
    pass


def soak(
    repository: Path | None = None,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 8,
    allowed_mb_per_hour: float = 10.0,
    on_sample: OnSample = _silent,
) -> Soak:
    """Serves a repository under mixed load until one of the limits is reached; Ctrl-C ends it early.

    Args:
        repository: folder of model folders; a generated one by default.
        seconds, requests: limits; at least one is needed.
        clients: threads that send requests.
        allowed_mb_per_hour: largest slope that does not count as growth.
        on_sample: called with each sample of memory.

    Raises:
        ServerError: the server does not start, no model accepts generated inputs, or the server ended.
    """
    with ExitStack() as stack:
        generated = repository is None
        if repository is None:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tnn-serving-")))
            write_models(repository)
        log: deque[str] = deque(maxlen=LOG_LINES_SHOWN)
        flags = ["--model-control-mode=explicit", "--load-model=*"]
        server = stack.enter_context(BackgroundServer(repository, flags, log.append))
        pid = server.pid
        if pid is None:
            raise ServerError("tritonserver ended right after its start")
        address, grpc_address = (url.partition("://")[2] for url in (server.http_url, server.grpc_url))
        targets = _targets(address)
        if not targets:
            raise ServerError("no model accepts generated inputs", found="\n".join(["", *log]))
        # The last model is loaded and unloaded repeatedly, unless it is the only one.
        unloaded = targets.pop().info.name if len(targets) > 1 else None
        traffic = Traffic(
            address,
            grpc_address,
            targets,
            reloaded=[repository / target.info.name for target in targets] if generated else [],
            unloaded=[] if unloaded is None else [unloaded],
            clients=clients,
        )
        watch = _Watch(pid)
        try:
            interrupted = _until(traffic, watch, seconds, requests, on_sample)
        except psutil.NoSuchProcess:
            raise ServerError("tritonserver ended during the soak", found="\n".join(["", *log])) from None
        finally:
            traffic.stop()
        return _report(traffic.counts, watch, targets, allowed_mb_per_hour, interrupted)


def _targets(address: str) -> list[SoakModel]:
    random = np.random.default_rng(0)
    with connect(f"http://{address}") as connection, tritonclient.http.InferenceServerClient(address) as client:
        models = [connection.model(name) for name in connection.ready_models()]
        found: list[Any] = [find_shapes(tritonclient.http, client, info, random) for info in models]
    return sorted((target for target in found if target.shapes), key=lambda target: str(target.info.name))


def _until(traffic: Traffic, watch: _Watch, seconds: float | None, requests: int | None, on_sample: OnSample) -> bool:
    """Samples memory until a limit is reached; True if Ctrl-C ended it."""
    ticks = threading.Event()
    interval_s = max(SAMPLE_INTERVAL_S, (seconds or 0) / SAMPLES)
    try:
        while True:
            with traffic.at_rest():
                watch.sample(filled=traffic.filled)
            on_sample(watch.times_s[-1], traffic.counts.requests, watch.memory_bytes[-1] / 1e6)
            if seconds is not None and watch.times_s[-1] >= seconds:
                return False
            if requests is not None and traffic.counts.requests >= requests:
                return False
            ticks.wait(interval_s)
    except KeyboardInterrupt:
        return True


class _Watch:
    """Samples of the memory of a process and its children.

    Attributes:
        filled_s: time of the first sample at which the server's stores were full.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._start = time.monotonic()
        self.times_s: list[float] = []
        self.memory_bytes: list[float] = []
        self.anonymous_bytes: list[float] = []
        self.filled_s = math.inf

    def sample(self, *, filled: bool) -> None:
        """Takes a sample. Raises psutil.NoSuchProcess if the process has ended."""
        memory, anonymous = _memory_bytes(self._process)
        self.times_s.append(time.monotonic() - self._start)
        self.memory_bytes.append(memory)
        self.anonymous_bytes.append(anonymous)
        if filled:
            self.filled_s = min(self.filled_s, self.times_s[-1])


def _memory_bytes(process: psutil.Process) -> tuple[float, float]:
    """Proportional set size of a process and its children, and the part of it that is not of files."""
    parts = [_rollup(process.pid)]
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            parts.append(_rollup(child.pid))
    return sum(part["Pss"] for part in parts), sum(part["Pss_Anon"] for part in parts)


def _rollup(pid: int) -> dict[str, float]:
    """The sums over a process's mappings (proc(5), smaps_rollup), in bytes."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return {name: int(kb) * 1024.0 for name, kb in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _report(
    counts: Counts, watch: _Watch, targets: Sequence[SoakModel], allowed_mb_per_hour: float, interrupted: bool
) -> Soak:
    line = fit_growth(watch.times_s, watch.anonymous_bytes, watch.filled_s)
    return Soak(
        seconds=watch.times_s[-1] if watch.times_s else 0.0,
        requests=counts.requests,
        answered=counts.answered,
        refused=counts.refused,
        cancelled=counts.cancelled,
        shared=counts.shared,
        reloads=counts.reloads,
        failures=dict(counts.failures.most_common()),
        shapes={target.info.name: len(target.shapes) for target in targets},
        times_s=[round(seconds, 2) for seconds in watch.times_s],
        memory_mb=[round(memory / 1e6, 2) for memory in watch.memory_bytes],
        anonymous_mb=[round(memory / 1e6, 2) for memory in watch.anonymous_bytes],
        growth=line,
        allowed_mb_per_hour=allowed_mb_per_hour,
        verdict=None if line is None else line.verdict(allowed_mb_per_hour),
        interrupted=interrupted,
    )
