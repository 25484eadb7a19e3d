"""A complete benchmark: one measurement per level of load, on a running server or on a temporary one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tnn_serving.client.connection import Protocol, connect
from tnn_serving.client.load.inputs import file_shapes
from tnn_serving.client.load.measure import OPEN_LOOP_CONNECTIONS, LoadTarget, SharedMemory, measure_load
from tnn_serving.client.load.measurement import Measurement, Window


@dataclass(frozen=True, slots=True)
class Level:
    """A level of load: concurrent requests, or requests per second."""

    concurrency: int | None = None
    rate: float | None = None

    @property
    def label(self) -> str:
        """The level as a title."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"rate {self.rate:g}"


@dataclass(frozen=True, slots=True)
class BenchRequests:
    """The requests to send; see :class:`~tnn_serving.client.load.measure.LoadTarget`."""

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    data: Path | None = None
    batch: int = 1
    seed: int = 0
    shared_memory: SharedMemory = "none"
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How to send and measure; see :func:`~tnn_serving.client.load.measure.measure_load`."""

    poisson: bool = False
    connections: int = OPEN_LOOP_CONNECTIONS
    window_s: float = 2.0
    stability: float = 0.05
    max_windows: int = 10


OnWindow = Callable[[Level, Window], None]


def bench_model(
    model: Path, protocol: Protocol, levels: Iterable[Level], requests: BenchRequests, pace: Pace, on_window: OnWindow
) -> list[Measurement]:
    """Serves a model on a temporary server and measures it, at the shapes of its file unless ``requests`` has others.

    Ctrl-C ends it with the measurements so far; the last one is marked as interrupted.

    Args:
        model: a model folder, a version folder, or the file of a model.
        on_window: called with each window when it ends.

    Raises:
        FormatError: there is no model.
        ServerError, RequestError, ConfigError: as :func:`bench_server`, or the server does not start.
    """
    from tnn_serving.triton.background_server import (  # not needed for a server that runs already
        BackgroundServer,
        SingleModelRepository,
    )

    with SingleModelRepository(model) as one, BackgroundServer(one.repository) as server:
        url = server.http_url if protocol == "http" else server.grpc_url
        with connect(url) as connection:
            shapes = file_shapes(connection.model(one.name), model, requests.batch)
        sized = replace(requests, shapes={**shapes, **requests.shapes})
        return bench_server(url, one.name, levels, sized, pace, on_window, pid=server.pid)


def bench_server(
    url: str,
    model: str,
    levels: Iterable[Level],
    requests: BenchRequests,
    pace: Pace,
    on_window: OnWindow,
    *,
    pid: int | None = None,
) -> list[Measurement]:
    """Measures a model of a running server; see :func:`bench_model`.

    Args:
        pid: of the server, if known.

    Raises:
        ServerError, RequestError, ConfigError: as :class:`~tnn_serving.client.load.measure.LoadTarget` and
            :func:`~tnn_serving.client.load.measure.measure_load`.
    """
    done: list[Measurement] = []
    target = LoadTarget(
        url,
        model,
        shapes=requests.shapes,
        data=requests.data,
        batch=requests.batch,
        seed=requests.seed,
        shared_memory=requests.shared_memory,
        verify=requests.verify,
        pid=pid,
    )
    with target:
        for level in levels:
            found = measure_load(
                target,
                concurrency=level.concurrency,
                rate=level.rate,
                poisson=pace.poisson,
                connections=pace.connections,
                window_s=pace.window_s,
                stability=pace.stability,
                max_windows=pace.max_windows,
                on_window=partial(on_window, level),
            )
            done.append(found)
            if found.interrupted:
                break
    return done
