"""The supervisor's HTTP endpoint for the server's health, for probes, Prometheus and users.

It is available while tritonserver starts, hangs or restarts. It needs no authentication, so each connection serves one
request within a few seconds, and the number of connections is limited.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tnn_serving.triton.access import TOKEN_HEADER
from tnn_serving.triton.monitor import Monitor

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

GATEWAY_PATH = "/health/gateway"
"""For Envoy's health checks. It is /health/ready, but for a server that drains: that one counts as degraded, so that it
gets nothing more while another is ready, and its running requests are not cut off."""
DEGRADED: Mapping[str, str] = {"x-envoy-degraded": "draining"}
NO_HEADERS: Mapping[str, str] = {}
REQUEST_S = 5.0
"""Maximum duration of a connection."""
CONNECTIONS = 64
"""Maximum number of connections. Another one closes the oldest, so a new probe is always served."""


class HealthPort(ThreadingHTTPServer):
    """Serves ``/health/live``, ``/health/ready``, :data:`GATEWAY_PATH`, ``/health`` and ``/metrics`` in background
    threads until closed.

    Args:
        host, port: address to listen on.
        monitor: provides the health.
        token: required by ``/health`` in the header :data:`TOKEN_HEADER`, since reasons name files; None for no token.
        more_metrics: metrics of other programs that the supervisor runs.

    Raises:
        OSError: the port cannot be used.
    """

    request_queue_size = CONNECTIONS
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        host: str,
        port: int,
        monitor: Monitor,
        token: str | None = None,
        more_metrics: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self.monitor = monitor
        self.token = token
        self.more_metrics = more_metrics
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
        """Starts a thread for a connection; closes the oldest connection if there are too many."""
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
        """Called twice per second: closes connections that last too long, even if they are active."""
        oldest_s = time.monotonic() - REQUEST_S
        with self._open_lock:
            for connection, since_s in self._open.items():
                if since_s < oldest_s:
                    _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores callers that disconnect."""


def _cut(connection: socket.socket) -> None:
    """Shuts a connection down; its thread wakes up and closes it."""
    with suppress(OSError):  # the caller has already closed it
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
        elif path in ("/health/ready", GATEWAY_PATH):
            health = self.server.monitor.report()
            if path == GATEWAY_PATH and health.state == "stopping":
                self._answer(HTTPStatus.OK, "draining\n", more=DEGRADED)
                return
            status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
            # Without the token, no details: reasons may name files.
            text = "ready" if health.ready else health.reason if self._trusted() else f"not ready ({health.state})"
            self._answer(status, f"{text}\n")
        elif path == "/health":
            if self._trusted():
                report = json.dumps(asdict(self.server.monitor.report()), indent=2)
                self._answer(HTTPStatus.OK, report + "\n", "application/json")
            else:
                self._answer(HTTPStatus.FORBIDDEN, f"this needs the header {TOKEN_HEADER}\n")
        elif path == "/metrics":
            # Imported here: a server does not wait for it.
            from tnn_serving.triton.supervisor_metrics import CONTENT_TYPE, metrics_text

            text = metrics_text(self.server.monitor, self.server.more_metrics)
            self._answer(HTTPStatus.OK, text, CONTENT_TYPE)
        else:
            self._answer(
                HTTPStatus.NOT_FOUND, f"available: /health/live, /health/ready, {GATEWAY_PATH}, /health, /metrics\n"
            )

    do_HEAD = do_GET

    def _trusted(self) -> bool:
        token = self.server.token
        sent = self.headers.get(TOKEN_HEADER, "")
        return token is None or hmac.compare_digest(sent.encode(), token.encode())

    def _answer(
        self,
        status: HTTPStatus,
        text: str,
        content_type: str = "text/plain; charset=utf-8",
        more: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: probes arrive every few seconds."""
