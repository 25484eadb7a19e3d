"""The options of `serve` for the shield, and the decision whether there is one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.errors import ConfigError
from tnn_serving.shield.configuration import CallerLimits, Tls
from tnn_serving.shield.front import Shield, behind
from tnn_serving.triton.access import is_open
from tnn_serving.triton.launch import Launch

PANEL = "Shield"
MB = 1 << 20


class When(str, Enum):
    """When the shield is in front of the server."""

    auto = "auto"
    none = "none"
    always = "always"


ShieldOption = Annotated[
    When,
    typer.Option(
        "--shield",
        help="Envoy in front of tritonserver: if other machines can reach the server, never, or always.",
        rich_help_panel=PANEL,
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(help="Certificate chain (PEM): TLS for HTTP and gRPC.", rich_help_panel=PANEL),
]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key (PEM).", rich_help_panel=PANEL)]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(help="Authority (PEM) that must have signed each caller's certificate.", rich_help_panel=PANEL),
]
AccessLog = Annotated[
    Path | None,
    typer.Option(help="File that gets a line of JSON per request, or /dev/stdout.", rich_help_panel=PANEL),
]
RequestMb = Annotated[
    int, typer.Option(min=1, max=4095, help="Largest body of a request, in MiB.", rich_help_panel=PANEL)
]
JsonMb = Annotated[
    int,
    typer.Option(
        min=1, max=4095, help="Largest JSON of a request, in MiB; not tensors in binary.", rich_help_panel=PANEL
    ),
]
RequestTimeout = Annotated[
    float, typer.Option(min=1, help="Seconds that a caller has to send a request.", rich_help_panel=PANEL)
]
ClientRate = Annotated[
    int,
    typer.Option(
        min=0, help="Requests per second of each caller, by address; 0 for any number.", rich_help_panel=PANEL
    ),
]
Connections = Annotated[int, typer.Option(min=1, help="Connections of all callers together.", rich_help_panel=PANEL)]


def shield_for(
    launch: Launch,
    when: When,
    limits: CallerLimits,
    tls: tuple[Path | None, Path | None, Path | None],
    access_log: Path | None,
) -> Shield | None:
    """The shield of a server; None if there is to be none.

    Args:
        tls: certificate, key, and authority of clients.

    Raises:
        ConfigError: TLS without a shield or with a part missing, or a file that cannot be read.
    """
    certificate, key, authority = tls
    if when is When.none or (when is When.auto and not is_open(launch)):
        if any(tls) or access_log is not None:
            raise ConfigError(
                "TLS and the access log are the shield's, and there is no shield here",
                hint="add --shield always, or a --host that other machines can reach",
            )
        return None
    if (certificate is None) != (key is None) or (authority is not None and certificate is None):
        raise ConfigError("TLS needs both a certificate and its key", hint="give --tls-cert and --tls-key")
    for file in filter(None, tls):
        try:
            file.open("rb").close()
        except OSError as error:
            raise ConfigError("a file for TLS cannot be read", found=f"{file}: {error.strerror}") from error
    encrypted = Tls(certificate, key, authority) if certificate is not None and key is not None else None
    return Shield(launch, behind(launch), limits, encrypted, access_log)
