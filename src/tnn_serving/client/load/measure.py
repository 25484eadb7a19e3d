"""Puts a model under load and measures it in windows until the figures are stable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from tnn_serving.client.connection import Connection, Protocol, connect
from tnn_serving.client.load.answers import Expected
from tnn_serving.client.load.grpc import GrpcConnection
from tnn_serving.client.load.http import HttpConnection
from tnn_serving.client.load.inputs import make_inputs
from tnn_serving.client.load.loop import Check, LoadConnection, Loop
from tnn_serving.client.load.measurement import (
    AGREEING,
    Cut,
    Latency,
    Measurement,
    Window,
    agree,
    error_counts,
    sides_between,
    window_between,
)
from tnn_serving.client.load.message import INLINE, RegionSlices, grpc_request, http_request, request_inputs
from tnn_serving.client.load.options import OPEN_LOOP_CONNECTIONS, SharedMemory
from tnn_serving.client.load.schedule import ClosedLoop, OpenLoop, Record, Schedule, clock
from tnn_serving.client.load.server_statistics import ServerObserver
from tnn_serving.errors import ConfigError, ServerError, TnnError

FEWEST_ANSWERS = 10
"""A window has at least this many answers, however long they take."""


class LoadTarget:
    """A model of a running server, and the request to send to it.

    Args:
        url: of the server, see :func:`tnn_serving.client.connection.parse_url`.
        model: its name.
        protocol: for a ``url`` without a scheme.
        shapes, data, batch, seed: see :func:`tnn_serving.client.load.inputs.make_inputs`.
        shared_memory: "system" passes tensors through shared memory to a server on this machine.
        verify: compare every answer with the first one.
        pid: of the server, if known; its CPU time is measured.
        timeout_s: longest time without any answer.

    Raises:
        ConfigError: the address cannot be parsed, or is encrypted.
        ServerError: no answer.
        RequestError: there is no such model, inputs cannot be made, or the server refuses them.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        *,
        protocol: Protocol | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        data: Path | None = None,
        batch: int = 1,
        seed: int = 0,
        shared_memory: SharedMemory = "none",
        verify: bool = False,
        pid: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.connection: Connection = connect(url, protocol, timeout_s=timeout_s)
        self.address = self.connection.address
        if self.address.encrypted:
            raise ConfigError(
                "load is sent over plain connections only",
                expected="http:// or grpc://",
                found=self.address.url,
                hint="encryption would be measured too; use the server behind the proxy that adds it",
            )
        self.timeout_s = timeout_s
        try:
            self.info = self.connection.model(model)
            self.inputs = inputs = make_inputs(self.info, shapes=shapes, data=data, batch=batch, seed=seed)
            # This is also the first request, which may be slow.
            self.outputs = self.connection.infer(self.info, inputs)
        except BaseException:
            self.close()
            raise
        batched = self.info.max_batch_size > 0
        self.batch = next((array.shape[0] for array in inputs.values() if array.ndim), 1) if batched else batch
        self.observer = ServerObserver(self.connection, model, pid)
        self._sent = request_inputs(self.info, inputs)
        self._shared_memory = shared_memory
        self._verify = verify

    def __enter__(self) -> LoadTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection to the server."""
        self.connection.close()

    @contextmanager
    def loop(self, slots: int) -> Iterator[Loop]:
        """A loop with ``slots`` open connections. Shared memory is removed at the end."""
        with ExitStack() as stack:
            slices: list[RegionSlices] = [INLINE] * slots
            expected = Expected(self.outputs)
            if self._shared_memory == "system":
                from tnn_serving.client.load.shared_memory import Regions

                regions = Regions(self.connection, self._sent, self.outputs, slots)
                stack.callback(regions.close)
                slices = [regions.slices(slot) for slot in range(slots)]
                expected = Expected(self.outputs, slices[0].outputs, regions.output)
            loop = Loop(self.address, [self._connection(slot, slices[slot], expected) for slot in range(slots)])
            stack.callback(loop.close)
            yield loop

    def _connection(self, slot: int, slices: RegionSlices, expected: Expected) -> LoadConnection:
        check: Check | None
        if self.address.protocol == "http":
            check = expected.check_http if self._verify else None
            return HttpConnection(self.address, slot, http_request(self.address, self.info, self._sent, slices), check)
        check = expected.check_grpc if self._verify else None
        return GrpcConnection(self.address, slot, grpc_request(self.info, self._sent, slices), check)


def measure_load(
    target: LoadTarget,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    poisson: bool = False,
    connections: int = OPEN_LOOP_CONNECTIONS,
    window_s: float = 2.0,
    stability: float = 0.05,
    max_windows: int = 10,
    on_window: Callable[[Window], None] = lambda window: None,
) -> Measurement:
    """Measures one level of load: a concurrency (closed loop), or a rate of requests (open loop).

    The load is continuous; time is divided into windows. The result is the last three windows together, as soon as they
    agree in rate and p50, or after ``max_windows``, then marked as not stable. Ctrl-C ends the measurement with the
    windows so far, marked as interrupted.

    Args:
        concurrency: concurrent requests.
        rate: requests per second. Latency counts from the moment when a request was due, sent or not.
        poisson: at a ``rate``, send requests at random moments, as from many users, instead of evenly spaced.
        connections: at a ``rate``, how many requests can be in flight.
        window_s: shortest duration of a window, which has at least :data:`FEWEST_ANSWERS` answers.
        stability: windows agree if each is within this share of their mean.
        on_window: called with each window when it ends.

    Raises:
        ConfigError: neither or both of ``concurrency`` and ``rate``, or a number that is not positive.
        ServerError: the server stops, or sends no answer for the target's ``timeout_s``.
    """
    if (concurrency is None) == (rate is None):
        raise ConfigError("give either a concurrency or a rate")
    if min(concurrency or 1, rate or 1, connections, window_s, max_windows) <= 0:
        raise ConfigError("concurrency, rate, connections and windows must be positive")
    run = _Run(target, window_s)
    interrupted = False
    with target.loop(concurrency or connections) as loop:
        schedule: Schedule = ClosedLoop() if rate is None else OpenLoop(rate, poisson=poisson)
        run.start(loop, schedule)
        try:
            while len(run.windows) < max_windows and not agree(run.windows, stability):
                on_window(run.window())
        except KeyboardInterrupt:
            interrupted = True
            with suppress(TnnError):  # the interrupt may have arrived during a statistics request
                run.cut()
        finally:
            backlog = schedule.backlog(clock())
            run.stop()
    first, last = run.cuts[-1 - min(AGREEING, len(run.windows))], run.cuts[-1]
    latencies = run.record.between(first.answers, last.answers)[1]
    errors = error_counts(run.record.errors[first.errors : last.errors])
    duration_s = last.end - first.end
    requests = last.answers - first.answers
    requests_per_s = requests / duration_s if duration_s > 0 else 0.0
    server, client = sides_between(first, last)
    return Measurement(
        model=target.info.name,
        protocol=target.address.protocol,
        concurrency=concurrency,
        rate=rate,
        batch=target.batch,
        requests=requests,
        requests_per_s=requests_per_s,
        inferences_per_s=requests_per_s * target.batch,
        latency=Latency.of(latencies),
        errors=sum(errors.values()),
        error_texts=errors,
        duration_s=duration_s,
        backlog=backlog,
        stable=agree(run.windows, stability),
        interrupted=interrupted,
        windows=run.windows,
        server=server,
        client=client,
    )


class _Run:
    """A thread that sends load, and its windows so far.

    Attributes:
        record: the answers.
        cuts: the start of the first window, then the end of each.
        windows: the completed windows.
    """

    def __init__(self, target: LoadTarget, window_s: float) -> None:
        self._target = target
        self._window_s = window_s
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self.record = Record()
        self.cuts: list[Cut] = []
        self.windows: list[Window] = []

    def start(self, loop: Loop, schedule: Schedule) -> None:
        self.cuts.append(Cut(clock(), 0, 0, self._target.observer.snapshot()))

        def work() -> None:
            try:
                loop.run(schedule, self.record, self._stopped.is_set)
            except BaseException as error:
                self._failure = error
            finally:
                self._ended.set()

        self._thread = threading.Thread(target=work, name="load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def window(self) -> Window:
        """Waits for the end of the next window. Raises ServerError."""
        before = self.cuts[-1]
        last_answer = clock()
        wait_s = max(0.0, before.end + self._window_s - last_answer)
        count = 0
        while True:
            if self._ended.wait(wait_s) and self._failure is not None:
                raise self._failure
            answered = len(self.record.ends) + len(self.record.errors) - before.answers - before.errors
            if answered >= FEWEST_ANSWERS:
                return self.cut()
            if answered > count:
                count, last_answer = answered, clock()
            elif clock() - last_answer > self._target.timeout_s:
                raise ServerError(f"no answer from {self._target.address.url} for {self._target.timeout_s:g} s")
            wait_s = min(0.1, self._window_s)

    def cut(self) -> Window:
        """Ends the current window."""
        before = self.cuts[-1]
        answers, errors = len(self.record.ends), len(self.record.errors)
        ends, latencies = self.record.between(before.answers, answers)
        end = max([before.end, *ends[-1:], *(at for at, _ in self.record.errors[errors - 1 : errors])])
        after = Cut(float(end), answers, errors, self._target.observer.snapshot())
        self.cuts.append(after)
        self.windows.append(window_between(before, after, latencies))
        return self.windows[-1]
