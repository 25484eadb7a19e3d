"""A complete benchmark: one measurement per level of load, on a running server or on a temporary one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tnn_serving.client.connection import Protocol, connect, parse_url
from tnn_serving.client.load.inputs import file_shapes
from tnn_serving.client.load.measure import LoadTarget, measure_load
from tnn_serving.client.load.measurement import Measurement, Window
from tnn_serving.client.load.options import BenchRequests, Level, Pace
from tnn_serving.errors import ConfigError, UsageError
from tnn_serving.nearest import did_you_mean

OnWindow = Callable[[Level, Window], None]


def bench(
    target: str,
    model: str | None,
    protocol: Protocol,
    levels: Iterable[Level],
    requests: BenchRequests,
    pace: Pace,
    on_window: OnWindow,
) -> list[Measurement]:
    """Measures what a word means: a model's folder or file, or the address of a running server.

    Args:
        model: of a running server; ``None`` for its only one.
        protocol: of an address without a scheme, and of a temporary server.

    Raises:
        UsageError: the word is neither, or does not say which model.
        FormatError, ServerError, RequestError, ConfigError: as :func:`bench_model` and :func:`bench_server`.
    """
    if Path(target).exists():
        if model is not None:
            raise UsageError("only a server has models to choose from", hint="--model is for the address of a server")
        return bench_model(Path(target), protocol, levels, requests, pace, on_window)
    url = _address(target, protocol)
    return bench_server(url, model or _only_model(url), levels, requests, pace, on_window)


def _address(target: str, protocol: Protocol) -> str:
    """The address that a word means. A machine's name alone has to exist: it may be a misspelt file."""
    given = "://" in target
    if not given and ("/" in target or not (":" in target or _is_machine(target))):
        folder, name = os.path.split(target)
        hint = did_you_mean(name, (one.name for one in Path(folder).glob("*")), os.path.join(folder, ""))
        raise UsageError(f"{target!r} is no model, no file, and no address", hint=hint)
    try:
        return parse_url(target, None if given else protocol).url
    except ConfigError as error:
        raise UsageError(str(error)) from None


def _is_machine(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _only_model(url: str) -> str:
    with connect(url) as connection:
        names = connection.ready_models()
    if len(names) != 1:
        raise UsageError(f"--model: choose one of: {', '.join(names) or 'none is ready'}")
    return names[0]


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
