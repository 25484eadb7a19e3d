"""Our server beside others from pip: same engine, same network, each with its natural binary protocol.

    python benchmarks/peers.py install [NAME ...]
    python benchmarks/peers.py run [NAME ...] --networks tiny,squeezenet --connections 1,4,16 --rounds 3 --seconds 3

``install`` creates an environment for each peer from benchmarks/peers/requirements/NAME.txt. ``run`` starts every
installed server once, checks its answers against the engine's, and measures the servers alternately: while one is
measured, the others are frozen. All use the same cores; the engine's threads are divided among a server's workers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

import load
import networks
import tnn_serving as ts
import wire
from machine import Samples, cores, turns
from processes import Processes
from results import Result, Target, add_json, integers, words
from server import check_answer, start_tnn_serving, wait_until
from tnn_serving.triton.background_server import free_ports

HERE = Path(__file__).resolve().parent / "peers"
ENVIRONMENTS = Path.home() / ".cache" / "tnn-serving-peers"
OURS = "tnn-serving"

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        protocol: of its requests.
        forms: its configurations: pairs of workers and maximum requests per batch. Batches are used where they were
            found to help: not with LitServe, Ray Serve and MLServer, whose cost is elsewhere.
        inference_server: whether it is made for models, not for web applications in general.
    """

    protocol: wire.Protocol
    forms: tuple[tuple[int, int], ...] = ((1, 1), (2, 1))
    inference_server: bool = True


PEERS = {
    "fastapi": Peer("raw", inference_server=False),
    "mosec": Peer("raw", ((1, 1), (2, 1), (1, 16), (2, 16)), inference_server=False),
    "litserve": Peer("raw"),
    "mlserver": Peer("grpc"),
    "bentoml": Peer("raw"),
    "ray": Peer("raw"),
    "pytriton": Peer("http", ((1, 1), (1, 16))),
}
"""mosec counts as a framework: the target against frameworks is the stricter one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One server on one network with a number of connections; medians over the rounds. ``times_ours`` is our requests/s
    divided by its requests/s."""

    server: str
    workers: int
    batch: int
    connections: int
    requests_rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    pss_mb: float
    errors: int
    spread: float
    times_ours: float = 1.0


class Running:
    """A running server with its protocol and measurements."""

    def __init__(
        self, name: str, form: tuple[int, int], protocol: wire.Protocol, target: str, processes: Processes
    ) -> None:
        self.name = name
        self.workers, self.batch = form
        self.protocol = protocol
        self.target = target
        self.processes = processes
        self.rates: dict[tuple[str, int], Samples] = {}
        self.p50: dict[tuple[str, int], Samples] = {}
        self.p99: dict[tuple[str, int], Samples] = {}
        self.cpu: dict[tuple[str, int], Samples] = {}
        self.errors: dict[tuple[str, int], int] = {}
        self.pss_bytes = 0
        self.broken = False

    def __str__(self) -> str:
        return f"{self.name}, {self.workers} workers, batches of {self.batch}"

    def check(self, network: str, inputs: wire.Arrays, want: np.ndarray) -> None:
        """Waits until the server answers, and compares the answer."""
        wait_until(lambda: wire.answer(self.protocol, self.target, network, inputs), self.processes, str(self))
        check_answer(wire.answer(self.protocol, self.target, network, inputs), want, str(self))

    def measure(self, network: str, inputs: wire.Arrays, connections: int, seconds: float) -> None:
        """Measures one window of load."""
        request = wire.request(self.protocol, self.target, network, inputs)
        done, cpu_us = load.measured(request, self.processes, connections, seconds)
        key = (network, connections)
        for samples, value in (
            (self.rates, done.rate),
            (self.p50, done.p50_ms),
            (self.p99, done.p99_ms),
            (self.cpu, cpu_us),
        ):
            samples.setdefault(key, Samples()).add(value)
        self.errors[key] = self.errors.get(key, 0) + done.errors
        self.pss_bytes = self.processes.pss_bytes()

    def measured(self, network: str, connections: int, ours: Running) -> Measured:
        """A row of the table."""
        key = (network, connections)
        return Measured(
            self.name,
            self.workers,
            self.batch,
            connections,
            self.rates[key].median,
            self.p50[key].median,
            self.p99[key].median,
            self.cpu[key].median,
            self.pss_bytes / 1e6,
            self.errors[key],
            self.rates[key].spread,
            ours.rates[key].median / self.rates[key].median,
        )


def install(names: Sequence[str], environments: Path, python: str) -> None:
    """Creates or updates the environment of each peer."""
    for name in names:
        folder = environments / name
        stderr.print(f"{name}: {folder}")
        if not (folder / "bin" / "python").exists():
            subprocess.run([python, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(HERE / "requirements" / f"{name}.txt")], check=True)


def installed(names: Sequence[str], environments: Path) -> list[str]:
    """The peers that have an environment; prints the names of the others."""
    found = [name for name in names if (environments / name / "bin" / "python").exists()]
    for name in names:
        if name not in found:
            stderr.print(f"{name} is not installed and left out; run: python benchmarks/peers.py install {name}")
    return found


def start_peer(name: str, form: tuple[int, int], environments: Path, models: Path, folder: Path) -> Running:
    """Starts a peer on free ports."""
    workers, batch = form
    ports = free_ports(3)
    environment = {
        "PEER_MODELS": str(models),
        "PEER_PORTS": ",".join(map(str, ports)),
        "PEER_WORKERS": str(workers),
        "PEER_THREADS": str(max(1, cores() // workers)),
        "PEER_BATCH": str(batch),
        "PYTHONPATH": str(HERE),
        "PATH": os.pathsep.join([str(environments / name / "bin"), os.environ["PATH"]]),
    }
    command = [str(environments / name / "bin" / "python"), str(HERE / f"serve_{name}.py")]
    processes = Processes(command, folder / f"{name}-{workers}-{batch}.log", environment, folder=folder)
    return Running(name, form, PEERS[name].protocol, f"127.0.0.1:{ports[0]}", processes)


def run(arguments: argparse.Namespace) -> Result:
    """Measures all servers."""
    result = Result.of("peers", arguments)
    graphs = {name: networks.read(name, arguments.zoo) for name in arguments.networks}
    inputs = {name: networks.feeds(name, graph) for name, graph in graphs.items()}
    answers = {name: next(iter(ts.load(graph).run(inputs[name]).values())) for name, graph in graphs.items()}
    with tempfile.TemporaryDirectory(prefix="tnn-serving-peers-") as name, ExitStack() as stack:
        folder = Path(name)
        models = networks.write_onnx(folder / "onnx", {n: networks.read(n, arguments.zoo) for n in ALL_NETWORKS})
        networks.write_repository(folder / "models", graphs)
        ours = start_tnn_serving(folder / "models", folder / "ours.log")
        stack.callback(ours.end)
        servers = [Running(OURS, (1, 1), "http", ours.http, ours.processes)]
        settle(servers[0], inputs, answers)
        for peer in installed(arguments.names or list(PEERS), arguments.environments):
            for form in PEERS[peer].forms:
                running = start_peer(peer, form, arguments.environments, models, folder)
                stack.callback(running.processes.end)
                try:
                    settle(running, inputs, answers)
                except RuntimeError as error:
                    stderr.print(f"[red]{running} is left out:[/] {error}")
                    running.processes.end()
                    continue
                servers.append(running)
        measure(servers, inputs, arguments)
    report(result, servers, arguments)
    return result


ALL_NETWORKS = ("tiny", "squeezenet")
"""The networks that the peers serve in any case."""


def settle(running: Running, inputs: Mapping[str, wire.Arrays], answers: Mapping[str, np.ndarray]) -> None:
    """Waits for a server, checks its answers, puts it under load for a short time, and freezes it."""
    for network, arrays in inputs.items():
        running.check(network, arrays, answers[network])
        load.make_ready(wire.request(running.protocol, running.target, network, arrays))
    stderr.print(f"{running}: its answers equal the engine's", style="dim")
    running.processes.freeze()


def measure(servers: Sequence[Running], inputs: Mapping[str, wire.Arrays], arguments: argparse.Namespace) -> None:
    """Measures all rounds. Only one server runs at a time; measurements to compare directly follow each other."""
    named = {str(running): running for running in servers}
    for number, order in enumerate(turns(list(named), arguments.rounds), 1):
        for network, arrays in inputs.items():
            for connections in arguments.connections:
                for running in map(named.__getitem__, order):
                    if running.broken:
                        continue
                    try:
                        running.measure(network, arrays, connections, arguments.seconds)
                    except RuntimeError as error:
                        if running.name == OURS:
                            raise
                        stderr.print(f"[red]{running} is left out from now on:[/] {error}")
                        stderr.print(running.processes.last_words(), markup=False)
                        running.broken = True
                        running.processes.end()
        stderr.print(f"round {number} of {arguments.rounds} done", style="dim")


def report(result: Result, servers: Sequence[Running], arguments: argparse.Namespace) -> None:
    """Adds the tables and their targets to the result."""
    ours = servers[0]
    for network in arguments.networks:
        for connections in arguments.connections:
            done = [running for running in servers if (network, connections) in running.rates]
            rows = [running.measured(network, connections, ours) for running in done]
            for row in rows:
                result.add(network, row)
            result.targets += targets(network, connections, [row for row in rows if row.server != OURS])


def targets(network: str, connections: int, rows: Sequence[Measured]) -> list[Target]:
    """Targets relative to the best peers."""
    where = f"{network}, {connections} connection{'s' if connections > 1 else ''}: requests/s over those of the best"
    best = min((row.times_ours for row in rows), default=None)
    if best is None:
        return []
    made = [Target(f"{where} peer", 1.0, best, at_least=True)]
    if network != networks.TINY:
        return made
    two = min((row.times_ours for row in rows if row.workers == 2), default=None)
    servers = min((row.times_ours for row in rows if PEERS[row.server].inference_server), default=None)
    if two is not None:
        made.append(Target(f"{where} peer with two workers", 1.2 if connections == 1 else 2.0, two, at_least=True))
    if servers is not None:
        made.append(Target(f"{where} inference server", 5.0, servers, at_least=True))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("install", help="create an environment for each peer")
    first.add_argument("--python", default=sys.executable, help="the Python of the environments")
    second = commands.add_parser("run", help="measure our server beside the installed peers")
    second.add_argument("--networks", type=words, default=list(ALL_NETWORKS))
    second.add_argument("--connections", type=integers, default=[1, 4, 16])
    second.add_argument("--rounds", type=int, default=3)
    second.add_argument("--seconds", type=float, default=3.0, help="length of each window of load")
    networks.add_zoo(second)
    add_json(second)
    for command in (first, second):
        command.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
        command.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="FOLDER")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in PEERS]
    if unknown:
        parser.error(f"no peer {unknown[0]}; there are {', '.join(PEERS)}")
    if arguments.command == "install":
        install(arguments.names or list(PEERS), arguments.environments, arguments.python)
    else:
        run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
