"""A served network against the bare engine called from Python with the same threads, and the floor: an empty C backend.

    python benchmarks/served.py [--network squeezenet] [--connections 1,4,16] [--rounds 3] [--seconds 2]

Client and server share the cores, so CPU time is the most meaningful figure. Serving should cost the engine's time plus
the floor's, which is the time of tritonserver itself for the same tensor. The floor's answer is as large as its input
and goes to shared memory, since a classifier's answer is small.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

import load
import networks
import wire
from bare_engine import BareEngine
from floor import MODEL, start_floor
from machine import Samples, turns
from results import Result, Target, add_json, integers
from server import TnnServing, check_answer, start_tnn_serving, wait_until

BARE, EMPTY, SERVED, SHARED = "bare engine", "floor", "served", "served, input in shared memory"
PAUSED, PAUSE_S = "bare engine, 1 ms between runs", 1e-3
"""The engine with pauses between runs, as with one connection: its threads spin while they wait."""

PROTOCOLS: tuple[wire.Protocol, ...] = ("http", "grpc")

stderr = Console(stderr=True)

Key = tuple[str, str, int]
"""Name, protocol, connections."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over the rounds. ``of_bare`` is its requests/s divided by the bare engine's runs/s."""

    what: str
    protocol: str
    connections: int
    requests_rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    of_bare: float
    spread: float


@dataclass(slots=True)
class Figures:
    """All measurements of one key."""

    rate: Samples = field(default_factory=Samples)
    p50_ms: Samples = field(default_factory=Samples)
    p99_ms: Samples = field(default_factory=Samples)
    cpu_us: Samples = field(default_factory=Samples)

    def add(self, rate: float, p50_ms: float, p99_ms: float, cpu_us: float) -> None:
        """Adds the figures of one window."""
        self.rate.add(rate)
        self.p50_ms.add(p50_ms)
        self.p99_ms.add(p99_ms)
        self.cpu_us.add(cpu_us)

    def row(self, key: Key, bare: Figures) -> Measured:
        """The row of the table."""
        medians = self.rate.median, self.p50_ms.median, self.p99_ms.median, self.cpu_us.median
        return Measured(*key, *medians, self.rate.median / bare.rate.median, self.rate.spread)


def target_of(server: TnnServing, protocol: wire.Protocol) -> str:
    """A server's address for a protocol."""
    return server.http if protocol == "http" else server.grpc


def loaded(server: TnnServing, request: load.Request, connections: int, seconds: float) -> tuple[float, ...]:
    """One window of load on a server that is otherwise frozen: requests/s, p50, p99, CPU us."""
    done, cpu_us = load.measured(request, server.processes, connections, seconds)
    if done.errors:
        raise RuntimeError(f"{done.errors} requests to {request.url} failed")
    return done.rate, done.p50_ms, done.p99_ms, cpu_us


def run(arguments: argparse.Namespace) -> Result:
    """Measures everything."""
    result = Result.of("served", arguments)
    graph = networks.read(arguments.network, arguments.zoo)
    inputs = networks.feeds(arguments.network, graph)
    (array,) = inputs.values()
    with tempfile.TemporaryDirectory(prefix="tnn-serving-served-") as temporary, ExitStack() as stack:
        bare = stack.enter_context(BareEngine(graph, arguments.engine, inputs))
        folder = Path(temporary)
        config = f'parameters [ {{ key: "engine" value: {{ string_value: "{arguments.engine}" }} }} ]\n'
        repository = networks.write_repository(
            folder / "models", {arguments.network: graph}, {arguments.network: config}
        )
        ours = start_tnn_serving(repository, folder / "ours.log")
        stack.callback(ours.end)
        (folder / "floor").mkdir()
        floor = start_floor(folder / "floor")
        stack.callback(floor.end)
        windows: dict[Key, Callable[[], tuple[float, ...]]] = {}
        for protocol in PROTOCOLS:
            check(ours, protocol, arguments.network, inputs, bare.answer())
            check(floor, protocol, MODEL, {"x": array}, array)
            for what, server, request in requests(ours, floor, protocol, arguments.network, inputs, stack):
                for connections in arguments.connections:
                    key = (what, protocol, connections)
                    windows[key] = partial(loaded, server, request, connections, arguments.seconds)
        load.make_ready(wire.request("http", ours.http, arguments.network, inputs))
        for server in (ours, floor):
            server.processes.freeze()
            stack.callback(server.processes.thaw)
        figures = measure(windows, bare, arguments)
    for key, found in figures.items():
        result.add(f"{arguments.network} on {arguments.engine}", found.row(key, figures[BARE, "", 1]))
    result.targets += targets(figures, arguments)
    return result


def requests(
    ours: TnnServing,
    floor: TnnServing,
    protocol: wire.Protocol,
    network: str,
    inputs: wire.Arrays,
    stack: ExitStack,
) -> Iterator[tuple[str, TnnServing, load.Request]]:
    """Name, server and request of each measurement. ``stack`` releases the regions of shared memory."""
    ((name, array),) = inputs.items()
    at_floor, at_ours = target_of(floor, protocol), target_of(ours, protocol)
    answer = wire.SharedMemory(protocol, at_floor, f"answer-{protocol}", array)
    stack.callback(answer.close)
    yield EMPTY, floor, wire.request(protocol, at_floor, MODEL, {"x": array}, answers={"y": answer})
    yield SERVED, ours, wire.request(protocol, at_ours, network, inputs)
    region = wire.SharedMemory(protocol, at_ours, f"input-{protocol}", array)
    stack.callback(region.close)
    yield SHARED, ours, wire.request(protocol, at_ours, network, inputs, shared={name: region})


def check(server: TnnServing, protocol: wire.Protocol, network: str, inputs: wire.Arrays, want: np.ndarray) -> None:
    """Waits until a server answers, and compares the answer."""
    target = target_of(server, protocol)
    wait_until(lambda: wire.answer(protocol, target, network, inputs), server.processes, network)
    check_answer(wire.answer(protocol, target, network, inputs), want, network)


def measure(
    windows: dict[Key, Callable[[], tuple[float, ...]]], bare: BareEngine, arguments: argparse.Namespace
) -> dict[Key, Figures]:
    """Measures all windows of all rounds, and the bare engine before each protocol and number of connections."""
    figures: dict[Key, Figures] = {(BARE, "", 1): Figures()}
    groups = [(protocol, connections) for protocol in PROTOCOLS for connections in arguments.connections]
    for number, order in enumerate(turns([EMPTY, SERVED, SHARED], arguments.rounds), 1):
        for protocol, connections in groups:
            runs = bare.measure(arguments.seconds)
            figures[BARE, "", 1].add(runs.rate, runs.p50_ms, runs.p99_ms, runs.cpu_us)
            if connections == 1:
                runs = bare.measure(arguments.seconds, PAUSE_S)
                figures.setdefault((PAUSED, "", 1), Figures()).add(runs.rate, runs.p50_ms, runs.p99_ms, runs.cpu_us)
            for what in order:
                key = (what, protocol, connections)
                figures.setdefault(key, Figures()).add(*windows[key]())
        stderr.print(f"round {number} of {arguments.rounds} done", style="dim")
    return dict(sorted(figures.items(), key=lambda item: (item[0][1], item[0][2], item[0][0])))


def targets(figures: dict[Key, Figures], arguments: argparse.Namespace) -> list[Target]:
    """Targets for the cost of serving."""
    bare = figures[BARE, "", 1]
    made = []
    for protocol in PROTOCOLS:
        for connections in arguments.connections:
            floor, served = figures[EMPTY, protocol, connections], figures[SERVED, protocol, connections]
            cost = served.cpu_us.median / (bare.cpu_us.median + floor.cpu_us.median)
            where = f"{protocol}, {connections} connection{'s' if connections > 1 else ''}"
            made.append(Target(f"CPU per request over that of engine and floor, {where}", 1.05, cost, at_least=False))
        if 1 in arguments.connections:
            floor, served = figures[EMPTY, protocol, 1], figures[SERVED, protocol, 1]
            more_ms = served.p50_ms.median - bare.p50_ms.median - floor.p50_ms.median
            made.append(
                Target(f"p50 at 1 connection above engine and floor, ms, {protocol}", 0.3, more_ms, at_least=False)
            )
        best = max(figures[SHARED, protocol, connections].rate.median for connections in arguments.connections)
        share = best / bare.rate.median
        made.append(
            Target(
                f"throughput at saturation over the bare engine's, shared memory, {protocol}",
                0.95,
                share,
                at_least=True,
            )
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="squeezenet", help="a network with one input")
    parser.add_argument("--engine", choices=("openvino", "onnxruntime"), default="openvino", help="for both sides")
    parser.add_argument("--connections", type=integers, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each window of load")
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
