"""Envoy's configuration: ``envoy.yaml`` with the values of one shield, or of a gateway to several servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tnn_serving.errors import ConfigError
from tnn_serving.shield.clusters import TYPES, HostPort, socket_address
from tnn_serving.shield.routes import Route, with_refusals
from tnn_serving.shield.template import filled

PROTOCOLS = ("http", "grpc", "metrics")

TEMPLATE = Path(__file__).with_name("envoy.yaml")
JSON_LIMITS = Path(__file__).with_name("json_limits.lua")
ADMIN = "admin"
"""Name of the socket of Envoy's administration."""


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


def checked_tls(certificate: Path | None, key: Path | None, authority: Path | None) -> Tls | None:
    """What callers encrypt with; None for nothing.

    Raises:
        ConfigError: a part is missing, or a file cannot be read.
    """
    if (certificate is None) != (key is None) or (authority is not None and certificate is None):
        raise ConfigError("TLS needs both a certificate and its key", hint="give --tls-cert and --tls-key")
    for file in filter(None, (certificate, key, authority)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise ConfigError("a file for TLS cannot be read", found=f"{file}: {error.strerror}") from error
    return Tls(certificate, key, authority) if certificate is not None and key is not None else None


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that one Envoy is started with.

    Attributes:
        listeners: public addresses of "http", "grpc" and "metrics"; what is missing is not served.
        routes: for each of them, the routes, from :mod:`~tnn_serving.shield.routes`.
        clusters: where they lead, from :mod:`~tnn_serving.shield.clusters`.
        code: Lua that routes name.
        folder: private folder for the sockets of administration and probes.
        access_log: file of the access log.
    """

    listeners: Mapping[str, HostPort]
    routes: Mapping[str, Sequence[Route]]
    clusters: Sequence[Mapping[str, Any]]
    code: Mapping[str, str]
    folder: Path
    limits: CallerLimits = field(default_factory=CallerLimits)
    tls: Tls | None = None
    access_log: Path | None = None

    @property
    def admin_socket(self) -> Path:
        """Envoy's administration."""
        return self.folder / ADMIN

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
            "code": {name: {"inline_string": text} for name, text in self.code.items()},
            "access_log": _access_log(self.access_log),
            "http_tls": _tls(self.tls, "http/1.1"),
            "grpc_tls": _tls(self.tls, "h2"),
            "clusters": list(self.clusters),
        }
        for name in PROTOCOLS:
            address = self.listeners.get(name)
            values[f"serves_{name}"] = address is not None
            values[f"{name}_address"] = socket_address(*(address or ("127.0.0.1", 0)))
            values[f"{name}_routes"] = with_refusals(name, self.routes.get(name, ()))
        return filled(TEMPLATE.read_text(encoding="utf-8"), values)


def probe_socket(folder: Path) -> Path:
    """A socket that answers 200 if requests are served, in the folder of a configuration."""
    return folder / "probe"


def _bucket(per_second: int) -> dict[str, Any]:
    return {"max_tokens": 2 * per_second, "tokens_per_fill": per_second, "fill_interval": "1s"}


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
            "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
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
        "server": "%UPSTREAM_HOST%",
        "server_ms": "%RESPONSE_DURATION%",
        "why": "%RESPONSE_CODE_DETAILS%",
    }
    return [
        {
            "name": "file",
            "typed_config": {
                "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(file),
                "log_format": {"json_format": fields},
            },
        }
    ]
