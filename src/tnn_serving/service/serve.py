"""Starts a supervised server as the options of `serve` say."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tnn_serving.choices import ShieldChoice
from tnn_serving.errors import ConfigError, ServerError, UsageError
from tnn_serving.shield.configuration import CallerLimits, checked_tls
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
from tnn_serving.triton.launch import TOKEN_VARIABLE, Launch, build_launch, find_tritonserver, is_remote
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.run_file import RunningServer, announced
from tnn_serving.triton.supervise import Callbacks, Restarts, Supervisor

if TYPE_CHECKING:
    from tnn_serving.shield.front import Shield

PREPARED_ONLY = "--backend-config=tnn,prepared_only=true"

Say = Callable[[str], None]
"""Shows a note."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may administrate the server.

    Attributes:
        wanted: require a token; ``None`` if other machines can reach the server.
        file: with the token; ``None`` for the one in the environment, or a new one.
    """

    wanted: bool | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class ShieldOptions:
    """What is in front of the server.

    Attributes:
        when: there is a shield: "auto" if other machines can reach the server.
        limits: what callers may send.
        tls: certificate, key, and authority of clients.
        access_log: file for a line per request.
    """

    when: ShieldChoice = "auto"
    limits: CallerLimits = field(default_factory=CallerLimits)
    tls: tuple[Path | None, Path | None, Path | None] = (None, None, None)
    access_log: Path | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of a server.

    Attributes:
        arguments: repositories and flags of tritonserver, as they were typed.
        own_flags: flags that are ours, which a misspelt one may mean.
        host: address of all endpoints.
        ports: of HTTP, gRPC and metrics.
        health_port: of the supervisor; 0 for none.
        exit_timeout_s: for running requests to finish at the end.
        drain_s: how long requests are still answered after SIGTERM.
        restarts: how many times in a row a dead server is restarted.
        reload: after a restart, load models again that were loaded by request.
        allowed_backends: further ones, whose models may bring code.
        allow_load_overrides: load requests may bring a configuration and files.
        cache_dir: for measurements and compiled models.
        prepared_only: load only what is in it.
        tritonserver: the one to start, instead of the installed one.
    """

    arguments: Sequence[str]
    own_flags: Sequence[str]
    host: str
    ports: tuple[int, int, int]
    health_port: int
    exit_timeout_s: int
    drain_s: float
    restarts: int
    limits: HealthLimits
    reload: bool
    access: Access
    allowed_backends: Sequence[str]
    allow_load_overrides: bool
    cache_dir: Path | None
    prepared_only: bool
    tritonserver: Path | None
    shield: ShieldOptions

    @property
    def health_address(self) -> tuple[str, int] | None:
        """Address of the supervisor's health endpoint."""
        return (self.host, self.health_port) if self.health_port else None


def serve(options: ServeOptions, show: Callable[[Launch], Callbacks]) -> int:
    """Serves until a signal stops it.

    Args:
        show: gives the callbacks for a launch.

    Returns:
        The exit code; see :meth:`~tnn_serving.triton.supervise.Supervisor.run`.

    Raises:
        UsageError: unknown flags, or options that exclude each other.
        ConfigError, ServerError: the server cannot be started so.
    """
    server = find_tritonserver(options.tritonserver)
    # tritonserver is asked for its flags only where there are some: the listing takes a part of the start's time.
    known = flags_of(server) if any(word.startswith("-") for word in options.arguments) else {}
    words, flags = split_arguments(options.arguments, known, options.own_flags)
    words += flag_values(flags, "model-repository") + flag_values(flags, "model-store")
    flags = [flag for flag in flags if not flag.startswith(("--model-repository=", "--model-store="))]
    if not words:
        raise UsageError("no repository given")
    with Overlay(words, allowed=options.allowed_backends) as overlay:
        launch = _launch(options, overlay, flags, server)
        callbacks = show(launch)
        _check_remote(launch, words, callbacks.on_warning)
        apis = _protected(launch, options.access)
        token = _token(options.access.file, apis, callbacks.on_warning) if apis else None
        if token is not None:
            launch = with_token(launch, token, apis)
        front = shield_for(launch, options.shield)
        if front is None and is_open(launch):
            callbacks.on_warning(
                "there is no shield: every caller reaches tritonserver's own HTTP port, where one request can end the "
                "server; let only trusted programs reach it"
            )
        supervisor = Supervisor(
            launch if front is None else front.server,
            overlay,
            callbacks,
            Restarts(limit=options.restarts),
            options.limits,
            options.health_address,
            token if apis == ADMIN_APIS else None,
            options.reload,
            front,
            options.drain_s,
        )
        # Clients of an encrypted server have to say which certificate they trust.
        with nullcontext() if any(options.shield.tls) else announced(_running(launch, words)):
            return supervisor.run()


def _running(launch: Launch, repositories: Sequence[str]) -> RunningServer:
    grpc = launch.url_of("grpc")
    return RunningServer(launch.url, grpc and grpc.replace("http://", "grpc://"), tuple(repositories))


def _launch(options: ServeOptions, overlay: Overlay, flags: Sequence[str], server: Path) -> Launch:
    http_port, grpc_port, metrics_port = options.ports
    return build_launch(
        overlay.locations,
        host=options.host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        exit_timeout_s=options.exit_timeout_s,
        cache_dir=options.cache_dir,
        flags=[*([PREPARED_ONLY] if options.prepared_only else []), *flags],
        tritonserver=server,
        allow_load_overrides=options.allow_load_overrides,
    )


def _check_remote(launch: Launch, repositories: Sequence[str], say: Say) -> None:
    """Refuses remote repositories of a server that others can reach, and warns of them otherwise."""
    for repository in filter(is_remote, repositories):
        if is_open(launch):
            raise ServerError(
                "a remote repository is not served to other machines: Triton reads it by itself, and runs "
                "libraries that are in it",
                found=repository,
                hint="copy it into a folder, or serve it on a loopback address",
            )
        say(f"{repository} is not checked: Triton reads it by itself, and runs libraries that are in it")


def _protected(launch: Launch, access: Access) -> tuple[str, ...]:
    """The groups of requests that need the token."""
    if access.wanted is False and access.file is not None:
        raise UsageError("--admin-token-file can't be used with --no-admin-token")
    if access.wanted is False and launch.control_mode == "explicit":
        raise UsageError(
            "--no-admin-token can't be used with --model-control-mode=explicit: loading by request always needs the "
            "token"
        )
    given = access.file is not None or TOKEN_VARIABLE in os.environ
    return protected_apis(launch, True if given and access.wanted is None else access.wanted)


def _token(file: Path | None, apis: Sequence[str], say: Say) -> str:
    """The token for administration. A generated token is shown once."""
    from_environment = os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        token, shown = read_token(file), f"the content of {file}"
        if readable_by_all(file):
            say(f"every user of this machine may read the admin token in {file}; run: chmod o-rwx {file}")
    elif from_environment is not None:
        token, shown = checked_token(from_environment, TOKEN_VARIABLE), f"the content of {TOKEN_VARIABLE}"
    else:
        token = shown = new_token()
    more = ", shared memory, trace and log settings need" if apis == ADMIN_APIS else " needs"
    metadata = f"(gRPC metadata: {GRPC_PREFIX}{TOKEN_HEADER})"
    say(f"loading and unloading models{more} the header {TOKEN_HEADER}: {shown} {metadata}")
    return token


def shield_for(launch: Launch, options: ShieldOptions) -> Shield | None:
    """The shield of a server; None if there is to be none.

    Raises:
        ConfigError: TLS without a shield or with a part missing, or a file that cannot be read.
    """
    if options.when == "none" or (options.when == "auto" and not is_open(launch)):
        if any(options.tls) or options.access_log is not None:
            raise ConfigError(
                "TLS and the access log are the shield's, and there is no shield here",
                hint="add --shield always, or a --host that other machines can reach",
            )
        return None
    # Imported here: most servers have no shield, and start sooner without.
    from tnn_serving.shield.front import Shield, behind

    return Shield(launch, behind(launch), options.limits, checked_tls(*options.tls), options.access_log)
