"""The gateway: one Envoy in front of several servers, with the filters and limits of the shield.

Each request goes to the server with the fewest, whichever connection it came over. A server gets requests while its
health port says that it is ready. When it hangs or dies, what it had not answered is asked of another one, if repeating
it changes nothing: an inference changes nothing, unless it belongs to a sequence. Requests of a sequence go to the
server that its id chooses, and are never repeated. Administration concerns one server and is refused here.
"""

from __future__ import annotations

import ipaddress
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnn_serving.errors import ConfigError
from tnn_serving.shield import paths
from tnn_serving.shield.clusters import TYPES, HostPort, cluster
from tnn_serving.shield.configuration import ADMIN, CallerLimits, Configuration, Tls
from tnn_serving.shield.routes import NOT_STARTED, Route, matching, passed, refused
from tnn_serving.shield.running import RunningEnvoy
from tnn_serving.triton.access import ADMIN_APIS
from tnn_serving.triton.health import HEALTH_PORT
from tnn_serving.triton.health_port import GATEWAY_PATH
from tnn_serving.triton.process import POLL_S
from tnn_serving.triton.supervise import STOP_SIGNALS

SEQUENCE_HEADER = "tnn-sequence-id"
"""Requests with the same value go to the same server. Set from the id of a sequence in the request; for a gRPC stream,
whose requests are not looked into, callers may set it themselves."""
UNREAD_HEADER = "tnn-unread"
"""Marks requests that may belong to a sequence: their message is compressed."""

HEALTH_INTERVAL_S = 1
HEALTH_TIMEOUT_S = 2
LOST_PROBES = 2
"""After so many successive health checks without an answer, a server gets nothing."""

REPEATED: Mapping[str, Any] = {
    # The server could not be reached, has ended, or says that it cannot serve: 503, and UNAVAILABLE of gRPC.
    "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes,unavailable",
    "retriable_status_codes": [503],
    "num_retries": 4,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.5s"},
    "retry_host_predicate": [
        {
            "name": "another",
            "typed_config": {"@type": f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 5,
}
"""Repeats what may be repeated, on servers that have not tried it."""

REPEAT_AFTER_S = 10.0
"""An inference without an answer for so long is asked of another server as well, and the first answer counts: a health
check finds a server that hangs, but does not end the requests that it has."""

LEAST_REQUESTS: Mapping[str, Any] = {
    "load_balancing_policy": {
        "policies": [
            {
                "typed_extension_config": {
                    "name": "least_request",
                    "typed_config": {
                        "@type": f"{TYPES}.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                        "selection_method": "FULL_SCAN",
                    },
                }
            }
        ]
    }
}
BY_SEQUENCE: Mapping[str, Any] = {"lb_policy": "RING_HASH"}
_LOOKED_UP: Mapping[str, Any] = {
    "name": "looked_up",
    "typed_config": {
        "@type": f"{TYPES}.extensions.clusters.dns.v3.DnsCluster",
        "dns_refresh_rate": "2s",
        "dns_lookup_family": "V4_PREFERRED",  # a server with addresses of both kinds is one server
    },
}
_HASHED: Mapping[str, Any] = {"hash_policy": [{"header": {"header_name": SEQUENCE_HEADER}}]}

_HOST = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")
_CODE = {
    f"{protocol}_sequences": Path(__file__).with_name(f"{protocol}_sequences.lua") for protocol in ("http", "grpc")
}


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers with the same ports.

    Attributes:
        hosts: addresses or names. A name may have several addresses, each of which is a server, and is looked up again
            all the time.
        repeat_after_s: what has no answer for so long is asked of another one as well, if it may be repeated; 0 for
            never.
    """

    hosts: Sequence[str]
    http_port: int = 8000
    grpc_port: int = 8001
    health_port: int = HEALTH_PORT
    repeat_after_s: float = REPEAT_AFTER_S

    @property
    def ports(self) -> dict[str, int]:
        """By protocol."""
        return {"http": self.http_port, "grpc": self.grpc_port}


def configuration(
    servers: Servers,
    listeners: Mapping[str, HostPort],
    folder: Path,
    limits: CallerLimits,
    tls: Tls | None = None,
    access_log: Path | None = None,
) -> Configuration:
    """What the Envoy of a gateway is started with.

    Args:
        listeners: addresses of the gateway for "http", "grpc" and "metrics".
        folder: for the sockets of administration and probes.
    """
    routes = {
        "http": list(_routes("http", paths.HTTP, servers.repeat_after_s)),
        "grpc": list(_routes("grpc", paths.GRPC, servers.repeat_after_s)),
        "metrics": list(_own_routes()),
    }
    clusters = [
        _balanced(name, protocol, servers, policy)
        for protocol in servers.ports
        for name, policy in ((protocol, LEAST_REQUESTS), (_by_sequence(protocol), BY_SEQUENCE))
    ]
    clusters.append(cluster(ADMIN, "metrics", [{"address": {"pipe": {"path": str(folder / ADMIN)}}}]))
    code = {name: file.read_text(encoding="ascii") for name, file in _CODE.items()}
    return Configuration(listeners, routes, clusters, code, folder, limits, tls, access_log)


class Gateway(RunningEnvoy):
    """A gateway that runs here, with all cores that it may use."""

    title = "the gateway"

    def __init__(
        self,
        servers: Servers,
        listeners: Mapping[str, HostPort],
        limits: CallerLimits | None = None,
        tls: Tls | None = None,
        access_log: Path | None = None,
    ) -> None:
        from tnn_serving.engines.cpu import available_cores  # with NumPy, which `gateway render` does without

        super().__init__()
        self.workers = available_cores().count
        self.servers = servers
        self.listeners = listeners
        self._rest = limits or CallerLimits(), tls, access_log

    def configuration(self, folder: Path) -> Configuration:
        """That of :func:`configuration`."""
        return configuration(self.servers, self.listeners, folder, *self._rest)

    def run(
        self,
        on_line: Callable[[str], None],
        on_ready: Callable[[], None],
        *,
        drain_s: float = 0.0,
        exit_timeout_s: float = 10.0,
    ) -> None:
        """Balances until SIGTERM, SIGINT or SIGHUP; the second one ends it at once. Runs in the main thread.

        Args:
            on_line: called with each line of Envoy's log and each warning, in another thread.
            on_ready: called when requests are taken.
            drain_s: how long requests are still taken after SIGTERM, while ``/health/ready`` says 503.
            exit_timeout_s: how long running requests may take after that.

        Raises:
            ServerError: Envoy is not installed, or does not start.
        """
        received: list[int] = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: received.append(number))
        try:
            self.start(on_line, on_line)
            on_ready()
            while not received:
                time.sleep(POLL_S)
            if received[0] == signal.SIGTERM:
                self.leave()
                deadline = time.monotonic() + drain_s
                while len(received) < 2 and time.monotonic() < deadline:
                    time.sleep(POLL_S)
            self.drain(exit_timeout_s, lambda: len(received) > 1)
        finally:
            self.close()


def checked_hosts(hosts: Sequence[str]) -> list[str]:
    """Names or addresses of machines, once each.

    Raises:
        ConfigError: one of them is something else, such as a URL or an address with a port.
    """
    for host in hosts:
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise ConfigError(
                "a machine is the name or the address of a server",
                found=host,
                hint="give the ports of all of them with --server-http-port, --server-grpc-port, --server-health-port",
            )
    return list(dict.fromkeys(hosts))


# ---- clusters ----


def _by_sequence(protocol: str) -> str:
    """Name of the cluster for sequences."""
    return f"{protocol}_sequences"


def _balanced(name: str, protocol: str, servers: Servers, policy: Mapping[str, Any]) -> dict[str, Any]:
    endpoints = [
        {
            "address": {"socket_address": {"address": host, "port_value": servers.ports[protocol]}},
            "health_check_config": {"port_value": servers.health_port},
        }
        for host in servers.hosts
    ]
    found = cluster(name, protocol, endpoints)
    # A server that ends is not preferred (see `degraded` at GATEWAY_PATH) as long as any other one is ready.
    found["load_assignment"]["policy"] = {"overprovisioning_factor": 1_000_000}
    if not all(map(_is_address, servers.hosts)):
        del found["type"]
        found["cluster_type"] = _LOOKED_UP
    return {
        **found,
        **policy,
        # Where no server is ready, all are tried: one model that fails everywhere must not close the others.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "health_checks": [
            {
                "http_health_check": {"path": GATEWAY_PATH, "host": "gateway"},
                "interval": f"{HEALTH_INTERVAL_S}s",
                "no_traffic_interval": f"{HEALTH_INTERVAL_S}s",
                "timeout": f"{HEALTH_TIMEOUT_S}s",
                "unhealthy_threshold": LOST_PROBES,
                "healthy_threshold": 1,
                "reuse_connection": False,
            }
        ],
        # Between two health checks. Not by the server's own errors: callers could provoke those.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        "track_cluster_stats": {"per_endpoint_stats": True},
    }


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ---- routes ----


def _routes(protocol: str, kinds: Sequence[paths.Path], repeat_after_s: float) -> Iterator[Route]:
    repeated = dict(REPEATED)
    twice: dict[str, Any] = {}
    if repeat_after_s:
        repeated["per_try_timeout"] = f"{repeat_after_s:.3f}s"
        twice["hedge_policy"] = {"hedge_on_per_try_timeout": True}  # the first server may still answer
    for path in kinds:
        whole = matching(path)
        if path.api in ADMIN_APIS:
            yield refused(403, f"{path.api} is not served by the gateway: ask each server", protocol, whole)
            continue
        code = None
        if path.api == "inference":
            code = None if path.streams else f"{protocol}_sequences"
            of_sequence = matching(path, [{"name": SEQUENCE_HEADER, "present_match": True}])
            yield passed(protocol, path, of_sequence, None, cluster=_by_sequence(protocol), code=code, target=_HASHED)
        if path.streams:
            yield passed(protocol, path, whole, NOT_STARTED)
            continue
        if code is not None and protocol == "grpc":
            unread = matching(path, [{"name": UNREAD_HEADER, "present_match": True}])
            yield passed(protocol, path, unread, NOT_STARTED, code=code)
        yield passed(protocol, path, whole, repeated, code=code, target=twice)


def _own_routes() -> Iterator[Route]:
    """What the gateway answers itself, beside its metrics: whether it is alive, and whether callers should come."""
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    for path, target in (("/metrics", "/stats/prometheus"), ("/health/ready", "/ready")):
        yield {
            "match": {"path": path, "headers": get},
            "route": {"cluster": ADMIN, "prefix_rewrite": target, "timeout": "10s"},
        }
    yield {"match": {"path": "/health/live", "headers": get}, "direct_response": {"status": 200}}
