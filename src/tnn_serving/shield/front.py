"""The Envoy in front of a supervised server, which it starts and ends with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from prometheus_client.metrics_core import Metric

from tnn_serving.errors import ConfigError
from tnn_serving.shield import paths
from tnn_serving.shield.clusters import HostPort, cluster, socket_address
from tnn_serving.shield.configuration import PROTOCOLS, CallerLimits, Configuration, Tls
from tnn_serving.shield.metrics import STATISTICS, metrics
from tnn_serving.shield.routes import served
from tnn_serving.shield.running import RunningEnvoy
from tnn_serving.triton.access import restrictions
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.flags import is_true
from tnn_serving.triton.launch import Launch

MODEL_NAMES = Path(__file__).with_name("model_names.lua")


def behind(launch: Launch) -> Launch:
    """The server of a launch on free ports of this machine's loopback interface, for an Envoy at its addresses.

    Raises:
        ConfigError: the server is to have TLS of its own.
    """
    if is_true(launch.flag("grpc-use-ssl", "false")):
        raise ConfigError(
            "tritonserver has no TLS of its own behind the shield",
            found="--grpc-use-ssl",
            hint="use --tls-cert and --tls-key, which hold for HTTP and gRPC; or --shield none",
        )
    ports = dict(zip(PROTOCOLS, free_ports(len(PROTOCOLS)), strict=True))
    flags = [
        flag
        for protocol, port in ports.items()
        for flag in (f"--{protocol}-address=127.0.0.1", f"--{protocol}-port={port}")
    ]
    return replace(launch, command=(*launch.command, *flags))


class Shield(RunningEnvoy):
    """Envoy in front of one server.

    Args:
        public: the launch with the addresses that callers use.
        server: the launch that is started, from :func:`behind`.
        access_log: file for a line per request.
    """

    title = "the shield"
    # The other cores compute.
    workers = max(1, len(os.sched_getaffinity(0)) // 4)

    def __init__(
        self,
        public: Launch,
        server: Launch,
        limits: CallerLimits | None = None,
        tls: Tls | None = None,
        access_log: Path | None = None,
    ) -> None:
        super().__init__()
        self.public = public
        self.server = server
        self.limits = limits or CallerLimits()
        self.tls = tls
        self.access_log = access_log

    def metrics(self) -> Iterable[Metric]:
        """Envoy's metrics under our names; without those of Envoy if it does not answer."""
        return metrics(self.statistics(STATISTICS), up=not self.problem(), restarts=self.restarts)

    def configuration(self, folder: Path) -> Configuration:
        """One cluster per protocol, with one server."""
        listeners: dict[str, HostPort] = {}
        clusters = []
        for protocol in PROTOCOLS:
            address, target = self.public.endpoint(protocol), self.server.endpoint(protocol)
            if address is not None and target is not None:
                listeners[protocol] = address
                clusters.append(cluster(protocol, protocol, [{"address": socket_address(*target)}]))
        routes = {
            "http": list(served("http", paths.HTTP, restrictions(self.server, "http"))),
            "grpc": list(served("grpc", paths.GRPC, restrictions(self.server, "grpc"))),
            "metrics": list(served("metrics", [paths.METRICS])),
        }
        code = {"model_names": MODEL_NAMES.read_text(encoding="ascii")}
        return Configuration(listeners, routes, clusters, code, folder, self.limits, self.tls, self.access_log)
