"""Envoy's clusters: the servers that requests of one kind go to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from tnn_serving.errors import ServerError

HostPort = tuple[str, int]
"""A host and a port."""

TYPES = "type.googleapis.com/envoy"

SERVER_CONNECTIONS = 64
"""Connections to each port of a server. tritonserver 2.51 loses some of the connections that arrive within a moment,
from about 300; requests over HTTP beyond this number wait in Envoy."""

PLENTY = 1 << 20
"""Requests are limited where callers connect."""


def socket_address(host: str, port: int) -> dict[str, Any]:
    """An address, resolved now.

    Raises:
        ServerError: there is no such address.
    """
    try:
        ip = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise ServerError("no such address", found=host) from error
    return {"socket_address": {"address": ip, "port_value": port}}


def cluster(name: str, protocol: str, endpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Servers at fixed addresses that speak "http", "grpc" or "metrics"."""
    windows = {"initial_stream_window_size": 1 << 20, "initial_connection_window_size": 16 << 20}
    version = {"http2_protocol_options": windows} if protocol == "grpc" else {"http_protocol_options": {}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint} for endpoint in endpoints]}],
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": PLENTY,
                    "max_pending_requests": PLENTY,
                    "max_requests": PLENTY,
                    "max_retries": PLENTY,
                }
            ],
            "per_host_thresholds": [{"max_connections": SERVER_CONNECTIONS}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": version,
                "common_http_protocol_options": {"idle_timeout": "60s"},
            }
        },
    }
