"""The gateway in front of several servers: its configuration, and running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.cli.help import Command
from tnn_serving.cli.output import stderr, stdout
from tnn_serving.cli.serve import LIMITS, Port
from tnn_serving.cli.shield import (
    MB,
    AccessLog,
    ClientRate,
    Connections,
    JsonMb,
    RequestMb,
    RequestTimeout,
    TlsCert,
    TlsClientCa,
    TlsKey,
)
from tnn_serving.scale.gateway import REPEAT_AFTER_S, Gateway, Servers, checked_hosts, configuration
from tnn_serving.shield.clusters import HostPort
from tnn_serving.shield.configuration import CallerLimits, checked_tls
from tnn_serving.triton.health import HEALTH_PORT

SERVERS_PANEL = "Servers"

gateway = typer.Typer(
    no_args_is_help=True, help="Balance requests between the servers of several machines, with Envoy."
)

Machines = Annotated[
    list[str],
    typer.Argument(
        metavar="MACHINES...",
        help="Addresses or names of machines that run `tnn-serving serve`; each address of a name is one.",
    ),
]
ServerHttpPort = Annotated[int, typer.Option(min=1, max=65535, help="Their ports.", rich_help_panel=SERVERS_PANEL)]
ServerPort = Annotated[int, typer.Option(min=1, max=65535, rich_help_panel=SERVERS_PANEL)]
RepeatAfter = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds without an answer after which an inference is asked of another server as well; 0 for never.",
        rich_help_panel=SERVERS_PANEL,
    ),
]
Host = Annotated[str, typer.Option(help="Address of the gateway; 0.0.0.0 for all interfaces.")]


@gateway.command(cls=Command)
def render(
    machines: Machines,
    host: Host = "0.0.0.0",
    http_port: Port = 8000,
    grpc_port: Port = 8001,
    metrics_port: Port = 8002,
    run_dir: Annotated[
        Path, typer.Option(help="Folder of the sockets of Envoy's administration and probes; only its user may enter.")
    ] = Path("/run/tnn-gateway"),
    server_http_port: ServerHttpPort = 8000,
    server_grpc_port: ServerPort = 8001,
    server_health_port: ServerPort = HEALTH_PORT,
    repeat_after: RepeatAfter = REPEAT_AFTER_S,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    access_log: AccessLog = None,
    max_request_mb: RequestMb = LIMITS.request_bytes // MB,
    max_json_mb: JsonMb = LIMITS.json_bytes // MB,
    request_timeout: RequestTimeout = LIMITS.request_s,
    client_rate: ClientRate = LIMITS.client_rate,
    max_connections: Connections = LIMITS.connections,
) -> None:
    """Print the configuration of Envoy for a gateway.

    Examples:

      tnn-serving gateway render 10.0.0.1 10.0.0.2 10.0.0.3 > envoy.yaml

      tnn-serving gateway render servers.example.com --tls-cert server.pem --tls-key server.key
    """
    servers = Servers(checked_hosts(machines), server_http_port, server_grpc_port, server_health_port, repeat_after)
    limits = _limits(max_request_mb, max_json_mb, request_timeout, client_rate, max_connections)
    tls = checked_tls(tls_cert, tls_key, tls_client_ca)
    listeners = _listeners(host, http_port, grpc_port, metrics_port)
    stdout.out(configuration(servers, listeners, run_dir, limits, tls, access_log).text(), highlight=False, end="")


@gateway.command(cls=Command)
def run(
    machines: Machines,
    host: Host = "127.0.0.1",
    http_port: Port = 8000,
    grpc_port: Port = 8001,
    metrics_port: Port = 8002,
    exit_timeout: Annotated[int, typer.Option(min=0, help="Seconds for running requests to finish at the end.")] = 10,
    drain_time: Annotated[
        float,
        typer.Option(min=0, help="Seconds after SIGTERM in which requests are still taken; Ctrl-C does not wait."),
    ] = 0.0,
    server_http_port: ServerHttpPort = 8000,
    server_grpc_port: ServerPort = 8001,
    server_health_port: ServerPort = HEALTH_PORT,
    repeat_after: RepeatAfter = REPEAT_AFTER_S,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    access_log: AccessLog = None,
    max_request_mb: RequestMb = LIMITS.request_bytes // MB,
    max_json_mb: JsonMb = LIMITS.json_bytes // MB,
    request_timeout: RequestTimeout = LIMITS.request_s,
    client_rate: ClientRate = LIMITS.client_rate,
    max_connections: Connections = LIMITS.connections,
) -> None:
    """Run a gateway to the servers of several machines.

    Requests over HTTP and gRPC go to the server that has the fewest. Servers that hang, drain or are gone get nothing.
    Its metrics: http://HOST:8002/metrics.

    Examples:

      tnn-serving gateway run 10.0.0.1 10.0.0.2 10.0.0.3 --host 0.0.0.0
    """
    servers = Servers(checked_hosts(machines), server_http_port, server_grpc_port, server_health_port, repeat_after)
    limits = _limits(max_request_mb, max_json_mb, request_timeout, client_rate, max_connections)
    tls = checked_tls(tls_cert, tls_key, tls_client_ca)
    listeners = _listeners(host, http_port, grpc_port, metrics_port)
    running = Gateway(servers, listeners, limits, tls, access_log)

    def on_ready() -> None:
        for protocol, (address, port) in listeners.items():
            stdout.print(f"{protocol + ':':9}{address}:{port}", highlight=False)
        stdout.print(f"servers: {', '.join(servers.hosts)}\nstop:    Ctrl-C", highlight=False)

    def on_line(line: str) -> None:
        stderr.print(line, highlight=False, markup=False)

    running.run(on_line, on_ready, drain_s=drain_time, exit_timeout_s=exit_timeout)


def _limits(request_mb: int, json_mb: int, request_s: float, client_rate: int, connections: int) -> CallerLimits:
    return CallerLimits(
        request_bytes=request_mb * MB,
        json_bytes=json_mb * MB,
        request_s=request_s,
        client_rate=client_rate,
        connections=connections,
    )


def _listeners(host: str, http_port: int, grpc_port: int, metrics_port: int) -> dict[str, HostPort]:
    return {"http": (host, http_port), "grpc": (host, grpc_port), "metrics": (host, metrics_port)}
