"""Memory of the server, as PSS of its processes: at rest, with more instances, new shapes, models loaded and unloaded.

python benchmarks/memory.py [--network squeezenet] [--instances 1,2,4,8] [--shapes 1000] [--loads 20]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np
import tritonclient.http
from rich.console import Console

import load
import networks
import wire
from results import Result, Target, add_json, integers
from server import TNN_SERVING, TnnServing, ready, start_tnn_serving, wait_until
from tnn_serving.graph import Graph

SETTLE_S = 1.0
"""Time for compilation in the background to end after the last request."""
LOAD_S = 2.0
CONNECTIONS = 16
MARKS = 5
"""Number of memory samples during shapes or loads."""

MOST_AT_REST_MB = {"tritonserver": 180.0, TNN_SERVING.name: 40.0}
"""Limit of the memory by process; the second is the supervisor."""

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Instances:
    """Memory after some seconds of load. ``to_first`` is its PSS divided by the first row's."""

    instances: int
    pss_mb: float
    to_first: float


@dataclass(frozen=True, slots=True)
class Series:
    """Memory after ``count`` shapes or loads."""

    count: int
    pss_mb: float


@contextmanager
def served(folder: Path, name: str, graph: Graph, config: str, flags: Sequence[str] = ()) -> Iterator[TnnServing]:
    """A server of one network."""
    repository = networks.write_repository(folder, {name: graph}, {name: config} if config else None)
    server = start_tnn_serving(repository, folder / "log", flags)
    try:
        if not flags:
            wait_until(lambda: ready(server, name), server.processes, name)
        yield server
    finally:
        server.end()


def pss_mb(server: TnnServing) -> float:
    """The server's memory at rest."""
    time.sleep(SETTLE_S)
    return server.processes.pss_bytes() / 1e6


def at_rest(folder: Path) -> list[Target]:
    """The server and its supervisor after an answer of a tiny network."""
    graph = networks.read(networks.TINY, networks.ZOO)
    with served(folder / "rest", networks.TINY, graph, "") as server:
        wire.answer("http", server.http, networks.TINY, networks.feeds(networks.TINY, graph))
        time.sleep(SETTLE_S)
        used = server.processes.pss_of_each()
    return [
        Target(f"PSS of {name} with a tiny network, MB", most_mb, used[name] / 1e6, at_least=False)
        for name, most_mb in MOST_AT_REST_MB.items()
    ]


def instances(folder: Path, name: str, graph: Graph, counts: Sequence[int]) -> Iterator[Instances]:
    """A new server for each count, all instances busy."""
    inputs = networks.feeds(name, graph)
    first = 0.0
    for count in counts:
        config = f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]\n"
        with served(folder / f"instances-{count}", name, graph, config) as server:
            load.run(wire.request("http", server.http, name, inputs), CONNECTIONS, LOAD_S)
            used = pss_mb(server)
        first = first or used
        yield Instances(count, used, used / first)
        stderr.print(f"{count} instances done", style="dim")


def sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """``count`` different heights and widths from the network's own upwards, in random order."""
    found = list(islice(product(range(height, height + 32), range(width, width + count // 32 + 1)), count))
    order = np.random.RandomState(0).permutation(len(found))
    return [found[k] for k in order]


def shapes(folder: Path, name: str, graph: Graph, count: int) -> Iterator[Series]:
    """One request per shape."""
    (item,) = graph.inputs
    with (
        served(folder / "shapes", name, graph, "") as server,
        tritonclient.http.InferenceServerClient(server.http, network_timeout=60) as client,
    ):
        _, channels, *size = item.dims
        for done, (height, width) in enumerate([tuple(size), *sizes(*size, count)]):
            array = np.zeros((1, channels, height, width), np.float32)
            tensor = tritonclient.http.InferInput(item.name, list(array.shape), "FP32")
            tensor.set_data_from_numpy(array)
            client.infer(name, [tensor])
            if done % (count // MARKS) == 0:
                yield Series(done, pss_mb(server))
        stderr.print(f"{count} shapes done", style="dim")


def loads(folder: Path, name: str, graph: Graph, count: int) -> Iterator[Series]:
    """Loads the model, sends one request and unloads it, ``count`` times; memory is sampled while it is unloaded."""
    inputs = networks.feeds(name, graph)
    with (
        served(folder / "loads", name, graph, "", ["--model-control-mode=explicit"]) as server,
        tritonclient.http.InferenceServerClient(server.http, network_timeout=120) as client,
    ):
        wait_until(client.is_server_live, server.processes, "the server")
        yield Series(0, pss_mb(server))
        for done in range(1, count + 1):
            client.load_model(name)
            wire.answer("http", server.http, name, inputs)
            client.unload_model(name)
            while client.is_model_ready(name):
                time.sleep(0.01)
            if done == 1 or done % max(1, count // MARKS) == 0:
                yield Series(done, pss_mb(server))
        stderr.print(f"{count} loads done", style="dim")


def run(arguments: argparse.Namespace) -> Result:
    """Measures all four."""
    result = Result.of("memory", arguments)
    graph = networks.read(arguments.network, arguments.zoo)
    with tempfile.TemporaryDirectory(prefix="tnn-serving-memory-") as temporary:
        folder = Path(temporary)
        result.targets += at_rest(folder)
        more = list(instances(folder, arguments.network, graph, arguments.instances))
        shaped = list(shapes(folder, arguments.network, graph, arguments.shapes))
        loaded = list(loads(folder, arguments.network, graph, arguments.loads))
    for title, rows in (("instances", more), ("shapes", shaped), ("loads and unloads", loaded)):
        for row in rows:
            result.add(title, row)
    name = f"PSS with {more[-1].instances} instances over that with {more[0].instances}"
    result.targets += [
        Target(name, 1.1, more[-1].to_first, at_least=False),
        growth("shapes", shaped),
        growth("loads", loaded),
    ]
    return result


def growth(what: str, series: Sequence[Series]) -> Target:
    """The target that memory hardly grows in the second half."""
    middle, last = series[len(series) // 2], series[-1]
    name = f"PSS after {last.count:,} {what} over that after {middle.count:,}"
    return Target(name, 1.05, last.pss_mb / middle.pss_mb, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="squeezenet", help="a network with one input whose size is free")
    parser.add_argument("--instances", type=integers, default=[1, 2, 4, 8])
    parser.add_argument("--shapes", type=int, default=1000)
    parser.add_argument("--loads", type=int, default=20)
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
