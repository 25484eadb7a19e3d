"""Envoy's configuration: ``envoy.yaml`` with the values of one shield, or of a gateway to several servers."""

from __future__ import annotations

import json
import socket
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tnn_serving.errors import ServerError
from tnn_serving.shield import paths
from tnn_serving.triton.access import Restriction

HostPort = tuple[str, int]
"""A host and a port."""

TEMPLATE = Path(__file__).with_name("envoy.yaml")
JSON_LIMITS = Path(__file__).with_name("json_limits.lua")
MODEL_NAMES = Path(__file__).with_name("model_names.lua")

SERVER_CONNECTIONS = 64
"""Connections to each port of a server. tritonserver 2.51 loses some of the connections that arrive within a moment,
from about 300; requests over HTTP beyond this number wait in Envoy."""

_TYPES = "type.googleapis.com/envoy"
_PER_ROUTE = f"{_TYPES}.extensions.filters.http"


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What callers may send. Times are in seconds.

    Attributes:
        request_bytes: largest body, also when it is unpacked.
        json_bytes: largest JSON of a request; tensors in binary do not count.
        json_depth: how deep its arrays and objects may be nested. A tensor needs 3 more than it has dims.
        request_s: time to send a whole request.
        headers_s: time to send its headers.
        idle_s: how long a connection may be idle.
        answer_s: how long nothing may move while an answer is awaited or read.
        client_rate: requests per second of one caller; 0 for any number. Twice as many may come at once.
        connections: of all callers together.
    """

    request_bytes: int = 64 << 20
    json_bytes: int = 16 << 20
    json_depth: int = 64
    request_s: float = 60.0
    headers_s: float = 10.0
    idle_s: float = 300.0
    answer_s: float = 600.0
    client_rate: int = 5000
    connections: int = 10000

    @property
    def heap_bytes(self) -> int:
        """Memory of Envoy at which new requests are refused: eight of the largest bodies, and 1 GiB at least."""
        return max(8 * self.request_bytes, 1 << 30)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM format: certificate chain and key of the server, and the authority of callers' certificates, which
    are required if it is given."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that one Envoy is started with.

    Attributes:
        listeners: public addresses of "http", "grpc" and "metrics"; what is missing is not served.
        servers: for each of them, the addresses of the servers behind it.
        folder: private folder for the sockets of administration and probes.
        restrictions: of "http" and "grpc", as tritonserver has them.
        access_log: file of the access log.
    """

    listeners: Mapping[str, HostPort]
    servers: Mapping[str, Sequence[HostPort]]
    folder: Path
    limits: CallerLimits = field(default_factory=CallerLimits)
    tls: Tls | None = None
    restrictions: Mapping[str, Sequence[Restriction]] = field(default_factory=dict)
    access_log: Path | None = None

    @property
    def admin_socket(self) -> Path:
        """Envoy's administration."""
        return self.folder / "admin"

    def text(self) -> str:
        """The configuration as YAML.

        Raises:
            ServerError: an address cannot be resolved.
        """
        limits = self.limits
        rate = limits.client_rate
        values: dict[str, Any] = {
            "admin_socket": str(self.admin_socket),
            "probe_socket": str(probe_socket(self.folder)),
            "headers_timeout": f"{limits.headers_s:.3f}s",
            "request_timeout": f"{limits.request_s:.3f}s",
            "idle_timeout": f"{limits.idle_s:.3f}s",
            "answer_timeout": f"{limits.answer_s:.3f}s",
            "max_request_bytes": limits.request_bytes,
            "max_connections": limits.connections,
            "max_streams": limits.connections,
            "max_heap_bytes": limits.heap_bytes,
            "any_rate": not rate,
            "client_bucket": _bucket(rate or 1),
            "unused_bucket": _bucket(1),
            "json_limits": f"MAX_JSON_BYTES = {limits.json_bytes}\nMAX_JSON_DEPTH = {limits.json_depth}\n"
            + JSON_LIMITS.read_text(encoding="ascii"),
            "model_names": MODEL_NAMES.read_text(encoding="ascii"),
            "access_log": _access_log(self.access_log),
            "http_tls": _tls(self.tls, "http/1.1"),
            "grpc_tls": _tls(self.tls, "h2"),
            "http_routes": [_TUNNEL, _UNKNOWN_ENCODING, *self._routes("http", paths.HTTP)],
            "grpc_routes": self._routes("grpc", paths.GRPC),
            "metrics_routes": self._routes("metrics", [paths.METRICS]),
            "clusters": [_cluster(name, addresses) for name, addresses in self.servers.items()],
        }
        for name in ("http", "grpc", "metrics"):
            address = self.listeners.get(name)
            values[f"serves_{name}"] = address is not None
            values[f"{name}_address"] = _socket_address(*(address or ("127.0.0.1", 0)))
        template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
        return template.substitute({name: json.dumps(value) for name, value in values.items()})

    def _routes(self, protocol: str, served: Iterable[paths.Path]) -> list[dict[str, Any]]:
        return [*_routes(protocol, served, self.restrictions.get(protocol, ())), _not_found(protocol)]


def probe_socket(folder: Path) -> Path:
    """A socket that answers 200 if requests are served, in the folder of a configuration."""
    return folder / "probe"


def _socket_address(host: str, port: int) -> dict[str, Any]:
    try:
        ip = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise ServerError("no such address", found=host) from error
    return {"socket_address": {"address": ip, "port_value": port}}


def _bucket(per_second: int) -> dict[str, Any]:
    return {"max_tokens": 2 * per_second, "tokens_per_fill": per_second, "fill_interval": "1s"}


def _cluster(name: str, addresses: Sequence[HostPort]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _socket_address(*address)}} for address in addresses]
    windows = {"initial_stream_window_size": 1 << 20, "initial_connection_window_size": 16 << 20}
    version = {"http2_protocol_options": windows} if name == "grpc" else {"http_protocol_options": {}}
    many = 1 << 20  # callers are limited where they connect
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {
            "thresholds": [{"max_connections": SERVER_CONNECTIONS, "max_pending_requests": many, "max_requests": many}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": version,
                "common_http_protocol_options": {"idle_timeout": "60s"},
            }
        },
    }


# ---- routes ----


_NOT_BUFFERED = {"whole": {"@type": f"{_PER_ROUTE}.buffer.v3.BufferPerRoute", "disabled": True}}
_NAMES_READ = {"names": {"@type": f"{_PER_ROUTE}.lua.v3.LuaPerRoute", "name": "model_names"}}
_JSON_NOT_READ = {"json": {"@type": f"{_PER_ROUTE}.lua.v3.LuaPerRoute", "disabled": True}}


def _refusal(status: int, text: str, protocol: str = "http", **match: Any) -> dict[str, Any]:
    """A route that answers without waiting for the body."""
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": text}},
        "typed_per_filter_config": _NOT_BUFFERED | (_JSON_NOT_READ if protocol == "http" else {}),
    }


def _not_found(protocol: str) -> dict[str, Any]:
    return _refusal(404, "there is nothing at this path and method", protocol, prefix="/")


_TUNNEL = _refusal(404, "there are no tunnels", connect_matcher={})
_UNKNOWN_ENCODING = _refusal(
    415,
    "request bodies may be compressed with gzip only",
    prefix="/",
    headers=[
        {
            "name": "content-encoding",
            "string_match": {"safe_regex": {"regex": "identity|gzip"}},
            "invert_match": True,
        }
    ],
)


def _routes(cluster: str, served: Iterable[paths.Path], restrictions: Sequence[Restriction]) -> list[dict[str, Any]]:
    """The routes of what is served. For a restricted one without its header, there is a refusal."""
    prefix = "triton-grpc-protocol-" if cluster == "grpc" else ""
    found = []
    for path in served:
        wanted = [one for one in restrictions if path.api in one.apis]
        where = {
            "safe_regex": {"regex": path.pattern},
            "headers": [{"name": ":method", "string_match": {"exact": path.method}}],
        }
        secrets = [{"name": prefix + one.header, "string_match": {"exact": one.value}} for one in wanted]
        found.append(_passed(cluster, path, {**where, "headers": [*where["headers"], *secrets]}))
        if wanted:
            names = ", ".join(prefix + one.header for one in wanted)
            found.append(_refusal(403, f"this needs the header {names}", cluster, **where))
    return found


def _passed(cluster: str, path: paths.Path, match: Mapping[str, Any]) -> dict[str, Any]:
    target: dict[str, Any] = {
        "cluster": cluster,
        "timeout": "0s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
    }
    filters: dict[str, Any] = {}
    if path.streams:
        target["idle_timeout"] = "0s"
        filters |= _NOT_BUFFERED
    if path.names_model:
        filters |= _NAMES_READ
    if cluster == "http" and path.method == "GET":
        filters |= _JSON_NOT_READ
    return {"match": match, "route": target, "typed_per_filter_config": filters}


# ---- TLS and the access log ----


def _tls(tls: Tls | None, protocol: str) -> dict[str, Any] | None:
    if tls is None:
        return None
    common: dict[str, Any] = {
        "alpn_protocols": [protocol],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {"certificate_chain": {"filename": str(tls.certificate)}, "private_key": {"filename": str(tls.key)}}
        ],
    }
    if tls.client_authority is not None:
        common["validation_context"] = {"trusted_ca": {"filename": str(tls.client_authority)}}
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": tls.client_authority is not None,
        },
    }


def _access_log(file: Path | None) -> list[dict[str, Any]]:
    """One line of JSON for each request."""
    if file is None:
        return []
    fields = {
        "time": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "certificate": "%DOWNSTREAM_PEER_SUBJECT%",
        "protocol": "%PROTOCOL%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "ms": "%DURATION%",
        "server_ms": "%RESPONSE_DURATION%",
        "why": "%RESPONSE_CODE_DETAILS%",
    }
    return [
        {
            "name": "file",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(file),
                "log_format": {"json_format": fields},
            },
        }
    ]
