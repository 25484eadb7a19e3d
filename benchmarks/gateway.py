"""The cost of the gateway, and how evenly it spreads requests: the same requests to one server and through the gateway.

    python benchmarks/gateway.py [--servers 3] [--rounds 5] [--connections 1,16] [--json out.json]

The servers are at 127.0.0.2 and the following addresses, each with its shield, as where other machines reach it. All
loads go to the first server directly and to the gateway in turn, so that disturbances of the machine affect both.
Medians over the rounds are printed; quotients are medians of quotients of one round. CPU is user and system time per
request, of the gateway and, in the column of tritonserver, of all servers with their shields. Load, gateway and servers
share the cores, so that several servers are no faster than one: read what the hop adds, not the rates.
"""

from __future__ import annotations

import argparse
import re
import socket
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

import networks
import tnn_serving as ts
import wire
from processes import Processes
from results import Result, add_json, integers
from server import TNN_SERVING, check_answer, wait_until
from shield import MODEL, RELU, REQUESTS, TENSORS, Front, named, rows

PORTS = ("http", "grpc", "metrics", "health")
FIRST = 2
"""The last number of the first server's address; the gateway is at 127.0.0.1."""
_SENT = re.compile(r'^envoy_cluster_endpoint_rq_total\{.*envoy_endpoint_address="([\d.]+):\d+"\} (\d+)$', re.MULTILINE)

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Share:
    """Requests that went to one server, and their part of all of these."""

    server: str
    requests: int
    percent: float


def free_ports(hosts: Sequence[str]) -> dict[str, int]:
    """Ports that are free at all addresses."""
    found: list[int] = []
    while len(found) < len(PORTS):
        with ExitStack() as stack:
            port = stack.enter_context(socket.create_server((hosts[0], 0))).getsockname()[1]
            try:
                for host in hosts[1:]:
                    stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            found.append(port)
    return dict(zip(PORTS, found, strict=True))


def program(stack: ExitStack, folder: Path, name: str, *words: object) -> Processes:
    """Starts a command of tnn-serving, which ends with the stack."""
    processes = Processes([TNN_SERVING, *words], folder / f"{name}.log")
    stack.callback(processes.end)
    return processes


def listening(ports: Mapping[str, int], prefix: str = "--") -> list[object]:
    """The options for ports."""
    return [word for name, port in ports.items() for word in (f"{prefix}{name}-port", port)]


def sent(metrics: str) -> dict[str, int]:
    """Requests so far, by server."""
    with urllib.request.urlopen(metrics, timeout=wire.ANSWER_S) as answer:
        found: dict[str, int] = {}
        for host, count in _SENT.findall(answer.read().decode()):
            found[host] = found.get(host, 0) + int(count)
    return found


def run(arguments: argparse.Namespace) -> Result:
    """Measures both tensors over both protocols at all numbers of connections."""
    result = Result.of("gateway", arguments)
    hosts = [f"127.0.0.{FIRST + number}" for number in range(arguments.servers)]
    with tempfile.TemporaryDirectory(prefix="tnn-serving-gateway-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        graph = ts.fill_random_weights(ts.read_model(RELU), name="relu")
        networks.write_repository(folder / "models", {MODEL: graph}, {})
        ports, own = free_ports(["127.0.0.1", *hosts]), free_ports(["127.0.0.1"])
        no_limit = ["--client-rate", 0]
        servers = [
            program(
                stack, folder, host, "serve", folder / "models", "--host", host, "--shield", "always", *no_limit,
                *listening(ports),
            )
            for host in hosts
        ]  # fmt: skip
        behind = {name: port for name, port in ports.items() if name != "metrics"}
        own.pop("health")
        gateway = program(
            stack, folder, "gateway", "gateway", "run", *hosts, *no_limit, *listening(own),
            *listening(behind, "--server-"),
        )  # fmt: skip
        direct = {protocol: f"{hosts[0]}:{ports[protocol]}" for protocol in ("http", "grpc")}
        through = {protocol: f"127.0.0.1:{own[protocol]}" for protocol in ("http", "grpc")}
        for protocol, host in ((protocol, host) for protocol in direct for host in hosts):
            for shape in TENSORS.values():
                inputs = {"x": np.random.default_rng(0).random(shape, np.float32)}
                target = f"{host}:{ports[protocol]}"
                wait_until(partial(wire.answer, protocol, target, MODEL, inputs), servers[hosts.index(host)], host)
                wait_until(partial(wire.answer, protocol, through[protocol], MODEL, inputs), gateway, "the gateway")
                check_answer(wire.answer(protocol, through[protocol], MODEL, inputs), inputs["x"], "the gateway")
        behind_it = Front("", tuple(named(one, name) for one in servers for name in ("tritonserver", "envoy")))
        envoy = named(gateway, "envoy")
        before = sent(f"http://127.0.0.1:{own['metrics']}/metrics")
        for protocol in direct:
            fronts = {"none": Front(direct[protocol]), "gateway": Front(through[protocol], (envoy,))}
            for title, shape in TENSORS.items():
                array = np.random.default_rng(0).random(shape, np.float32)
                requests = {
                    name: wire.request(protocol, front.address, MODEL, {"x": array}) for name, front in fronts.items()
                }
                for connections in arguments.connections:
                    count = round(REQUESTS[title] * connections**0.5)
                    for row in rows(behind_it, fronts, requests, connections, count, arguments.rounds):
                        result.add(f"{protocol}, tensor of {title}", row)
                stderr.print(f"{protocol}, tensor of {title} done", style="dim")
        after = sent(f"http://127.0.0.1:{own['metrics']}/metrics")
        shares = {host: count - before.get(host, 0) for host, count in after.items()}
        for host, count in sorted(shares.items()):
            result.add("requests per server", Share(host, count, 100 * count / sum(shares.values())))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="loads per way and row")
    parser.add_argument("--connections", type=integers, default=[1, 16])
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
