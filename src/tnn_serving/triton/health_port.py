"""The supervisor's own HTTP endpoint: what probes, Prometheus and people ask about the server's health.

It stays up while tritonserver starts, hangs, or is started again. Whoever can reach it may ask, so a connection serves
one request, has a few seconds for it, and there are never many.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tnn_serving.triton.access import TOKEN_HEADER
from tnn_serving.triton.monitor import Monitor

DEFAULT_PORT = 8003
REQUEST_S = 5.0
"""How long a connection may last, from first to last byte."""
CONNECTIONS = 64
"""As many at a time; one more, and the oldest is closed: a new probe is served, whoever holds the others."""


class HealthPort(ThreadingHTTPServer):
    """Serves ``/health/live``, ``/health/ready``, ``/health`` and ``/metrics`` in threads of its own until closed.

    Args:
        host, port: where to listen.
        monitor: knows the answers.
        token: what ``/health`` needs in the header :data:`TOKEN_HEADER`, since reasons name files; None for nothing.

    Raises:
        OSError: the port can't be listened on.
    """

    request_queue_size = CONNECTIONS
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, monitor: Monitor, token: str | None = None) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self.monitor = monitor
        self.token = token
        self.registry = CollectorRegistry()
        self.registry.register(SupervisorMetrics(monitor))
        self._open: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="health port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands a connection to its thread, and makes room for it."""
        with self._open_lock:
            if len(self._open) >= CONNECTIONS:
                _cut(min(self._open, key=self._open.__getitem__))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: cuts connections that have lasted too long, however busily they send."""
        oldest_s = time.monotonic() - REQUEST_S
        with self._open_lock:
            for connection, since_s in self._open.items():
                if since_s < oldest_s:
                    _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is no news."""


def _cut(connection: socket.socket) -> None:
    """Wakes the thread that reads from or writes to a connection; the thread then closes it."""
    with suppress(OSError):  # the caller was faster
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request; HTTP/1.0, so that the connection ends with it."""

    server: HealthPort
    server_version = "tnn-serving"
    sys_version = ""
    timeout = REQUEST_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health/live":
            self._answer(HTTPStatus.OK, "live\n")
        elif path == "/health/ready":
            health = self.server.monitor.report()
            status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
            # Without the token, no details: reasons may name files.
            told = "ready" if health.ready else health.reason if self._trusted() else f"not ready ({health.state})"
            self._answer(status, f"{told}\n")
        elif path == "/health":
            if self._trusted():
                report = json.dumps(asdict(self.server.monitor.report()), indent=2)
                self._answer(HTTPStatus.OK, report + "\n", "application/json")
            else:
                self._answer(HTTPStatus.FORBIDDEN, f"this needs the header {TOKEN_HEADER}\n")
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(self.server.registry).decode(), CONTENT_TYPE_LATEST)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there are /health/live, /health/ready, /health and /metrics\n")

    do_HEAD = do_GET

    def _trusted(self) -> bool:
        token = self.server.token
        given = self.headers.get(TOKEN_HEADER, "")
        return token is None or hmac.compare_digest(given.encode(), token.encode())

    def _answer(self, status: HTTPStatus, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: nothing is logged."""


class SupervisorMetrics(Collector):
    """The supervisor's metrics, made from the monitor's report whenever somebody asks."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterable[Metric]:
        health = self._monitor.report()
        yield GaugeMetricFamily("tnn_supervisor_up", "1 while tritonserver answers", value=health.up)
        yield GaugeMetricFamily("tnn_supervisor_ready", "1 when /health/ready answers 200", value=health.ready)
        restarts = CounterMetricFamily("tnn_supervisor_restarts", "Restarts of tritonserver by cause", labels=["cause"])
        for cause, count in health.restarts.items():
            restarts.add_metric([cause], count)
        yield restarts
        models = GaugeMetricFamily(
            "tnn_supervisor_model_ready", "1 when a version of a model answers requests", labels=["model", "version"]
        )
        for one in health.models:
            models.add_metric([one.name, one.version], one.ready)
        yield models
