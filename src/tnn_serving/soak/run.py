"""Starts a server, keeps it busy, watches its memory."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.http

from tnn_serving.client.connection import connect
from tnn_serving.errors import ServerError
from tnn_serving.soak.growth import Growth, Verdict, growth
from tnn_serving.soak.models import write_models
from tnn_serving.soak.requests import Target, find_shapes
from tnn_serving.soak.traffic import Counts, Traffic
from tnn_serving.triton.background import Background

SAMPLE_EVERY_S = 1.0
LAST_LINES = 60
"""Of the server's log, to be shown if it ends."""


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak saw.

    Attributes:
        seconds: how long load was on.
        requests: sent in all; of these ``answered``, ``refused`` and ``cancelled`` as was wanted.
        shared: answered ones whose inputs lay in shared memory.
        reloads: models loaded anew.
        failures: everything that should not have been, with how often.
        shapes: different input shapes that were sent, by model.
        times_s, memory_mb: samples of the memory (PSS) of all server processes; MB are 10^6 bytes.
        growth: the line through them; ``None`` if the run was too short for one.
        allowed_mb_per_hour: threshold of the verdict.
        verdict: what the line says; ``None`` without one.
        interrupted: it was ended early.
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
    growth: Growth | None
    allowed_mb_per_hour: float
    verdict: Verdict | None
    interrupted: bool

    @property
    def good(self) -> bool:
        """Memory is not known to grow, and nothing failed."""
        return self.verdict is not Verdict.GROWS and not self.failures


Progress = Callable[[float, int, float], None]
"""Told seconds since the start, requests sent, and the memory in MB."""


def _silent(seconds: float, requests: int, memory_mb: float) -> None:
    pass


def soak(
    repository: Path | None = None,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 8,
    allowed_mb_per_hour: float = 10.0,
    progress: Progress = _silent,
) -> Soak:
    """Serves a repository under mixed load until one of the limits is reached; Ctrl-C ends it early.

    Args:
        repository: folder of model folders; a made one if left out.
        seconds, requests: limits; at least one is needed.
        clients: threads that send.
        allowed_mb_per_hour: growth that is no growth yet.
        progress: told about once a second.

    Raises:
        ServerError: the server does not start, no model can be asked, or the server ended.
    """
    with ExitStack() as stack:
        made = repository is None
        if repository is None:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tnn-serving-")))
            write_models(repository)
        log: deque[str] = deque(maxlen=LAST_LINES)
        flags = ["--model-control-mode=explicit", "--load-model=*"]
        server = stack.enter_context(Background(repository, flags, log.append))
        pid = server.pid
        if pid is None:
            raise ServerError("tritonserver ended right after its start")
        address, grpc_address = (url.partition("://")[2] for url in (server.http_url, server.grpc_url))
        targets = _targets(address)
        if not targets:
            raise ServerError("no model answers anything that can be made up", found="\n".join(["", *log]))
        # The last one comes and goes, unless it is the only one.
        moving = targets.pop().info.name if len(targets) > 1 else None
        traffic = Traffic(
            address,
            grpc_address,
            targets,
            reloaded=[repository / target.info.name for target in targets] if made else [],
            come_and_go=[] if moving is None else [moving],
            clients=clients,
        )
        watch = _Watch(pid)
        try:
            interrupted = _until(traffic, watch, seconds, requests, progress)
        except psutil.NoSuchProcess:
            raise ServerError("tritonserver ended during the soak", found="\n".join(["", *log])) from None
        finally:
            traffic.stop()
        return _report(traffic.counts, watch, targets, allowed_mb_per_hour, interrupted)


def _targets(address: str) -> list[Target]:
    random = np.random.default_rng(0)
    with connect(f"http://{address}") as connection, tritonclient.http.InferenceServerClient(address) as client:
        models = [connection.model(name) for name in connection.ready_models()]
        found: list[Any] = [find_shapes(tritonclient.http, client, info, random) for info in models]
    return sorted((target for target in found if target.shapes), key=lambda target: str(target.info.name))


def _until(traffic: Traffic, watch: _Watch, seconds: float | None, requests: int | None, progress: Progress) -> bool:
    """Watches until a limit is reached; true if somebody interrupted."""
    ticks = threading.Event()
    try:
        while True:
            watch.sample()
            progress(watch.times_s[-1], traffic.counts.requests, watch.memory_bytes[-1] / 1e6)
            if seconds is not None and watch.times_s[-1] >= seconds:
                return False
            if requests is not None and traffic.counts.requests >= requests:
                return False
            ticks.wait(SAMPLE_EVERY_S)
    except KeyboardInterrupt:
        return True


class _Watch:
    """Samples of the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._start = time.monotonic()
        self.times_s: list[float] = []
        self.memory_bytes: list[float] = []

    def sample(self) -> None:
        """Takes one. Raises psutil.NoSuchProcess if the process is gone."""
        memory = _pss(self._process)
        self.times_s.append(time.monotonic() - self._start)
        self.memory_bytes.append(memory)


def _pss(process: psutil.Process) -> float:
    """Proportional set size of a process and those that it started."""
    total = process.memory_full_info().pss
    for child in process.children(recursive=True):
        try:
            total += child.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # it has ended since
    return float(total)


def _report(
    counts: Counts, watch: _Watch, targets: Sequence[Target], allowed_mb_per_hour: float, interrupted: bool
) -> Soak:
    line = growth(watch.times_s, watch.memory_bytes)
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
        growth=line,
        allowed_mb_per_hour=allowed_mb_per_hour,
        verdict=None if line is None else line.verdict(allowed_mb_per_hour),
        interrupted=interrupted,
    )
