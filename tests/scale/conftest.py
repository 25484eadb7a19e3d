"""Three real servers behind a real Envoy."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scale.machines import HOSTS, Machine, free_ports, write_version
from tests.scale.traffic import Traffic
from tests.servers import DEADLINE_S, wait_for
from tnn_serving.scale.gateway import Gateway, Servers
from tnn_serving.shield.configuration import CallerLimits, Tls

NO_LIMIT = CallerLimits(client_rate=0)
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass
class Balanced:
    """A gateway and the machines behind it."""

    gateway: Gateway
    machines: list[Machine]

    def address(self, protocol: str) -> str:
        host, port = self.gateway.listeners[protocol]
        return f"{host}:{port}"

    def traffic(self) -> Traffic:
        return Traffic(self.address("http"), self.address("grpc"))

    def metric(self, name: str, *labels: str) -> float:
        """The sum of the gateway's metric over all series with these labels."""
        with urllib.request.urlopen(f"http://{self.address('metrics')}/metrics", timeout=DEADLINE_S) as answer:
            text = answer.read().decode()
        return sum(
            float(value)
            for found, has, value in _SAMPLE.findall(text)
            if found == name and all(x in has for x in labels)
        )

    def preferred(self) -> set[int]:
        """How many servers requests are sent to, by protocol."""
        return {int(self.metric("envoy_cluster_membership_healthy", f'"{name}"')) for name in ("http", "grpc")}

    def wait_for_preferred(self, count: int) -> None:
        wait_for(lambda: self.preferred() == {count}, f"{count} servers get requests over both protocols")

    def requests(self, machine: Machine) -> float:
        """How many inferences a server has been sent."""
        return sum(
            self.metric("envoy_cluster_endpoint_rq_total", f'"{machine.host}:{port}"')
            for port in machine.servers.ports.values()
        )

    def wait_for_requests(self, machine: Machine, more: float = 10) -> None:
        before = self.requests(machine)
        wait_for(lambda: self.requests(machine) >= before + more, f"{machine.host} gets requests")


StartGateway = Callable[..., Gateway]


@pytest.fixture
def start_gateway(envoy: None) -> Iterator[StartGateway]:
    """Starts gateways on free ports; they are ended afterwards."""
    with ExitStack() as stack:

        def make(
            servers: Servers, limits: CallerLimits = NO_LIMIT, tls: Tls | None = None, log: Path | None = None
        ) -> Gateway:
            ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
            listeners = {name: ("127.0.0.1", port) for name, port in ports.items()}
            gateway = Gateway(servers, listeners, limits, tls, log)
            stack.callback(gateway.close)
            gateway.start(print, print)
            return gateway

        yield make


@pytest.fixture(scope="session")
def machines(installed: None, envoy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """Three servers with version 1 of the model."""
    http, grpc, metrics, health = free_ports(4)
    servers = Servers(HOSTS, http, grpc, health)
    found = []
    for host in HOSTS:
        folder = tmp_path_factory.mktemp(host)
        write_version(folder / "models", 1)
        found.append(Machine(host, servers, metrics, folder, ("--client-rate", "0")))
    with ExitStack() as stack:
        for machine in found:
            stack.callback(machine.close)
            machine.start()
        for machine in found:
            machine.wait_until_ready()
        yield found


@pytest.fixture
def balanced(machines: list[Machine], start_gateway: StartGateway) -> Balanced:
    """A gateway of its own, in front of the three servers, which all are ready."""
    for machine in machines:
        machine.wait_until_ready()
    found = Balanced(start_gateway(machines[0].servers), machines)
    found.wait_for_preferred(len(machines))
    return found
