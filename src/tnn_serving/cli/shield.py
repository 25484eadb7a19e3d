"""The options of `serve` for the shield."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.choices import ShieldChoice

PANEL = "Shield"
MB = 1 << 20


ShieldOption = Annotated[
    ShieldChoice,
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
