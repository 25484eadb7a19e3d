"""What `serve` shows: the models, the next steps, and what happens to the server.

Rich is imported when something is shown, which is mostly while the server starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tnn_serving.cli import output
from tnn_serving.triton.index import ServedModel
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.log import as_shown, decision_at_load, is_alarming
from tnn_serving.triton.supervise import Callbacks

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

PICTURE_COMMANDS = {"classification": "classify", "face_detection": "detect"}
"""The demo models and their commands."""


def callbacks(launch: Launch, health_address: tuple[str, int] | None, *, show_all: bool, encrypted: bool) -> Callbacks:
    """What is shown of a server's life."""
    waited_s = 0.0

    def on_log(line: str) -> None:
        decision = decision_at_load(line)
        if show_all or is_alarming(line):
            sys.stderr.write(as_shown(line) + "\n")
            sys.stderr.flush()
        elif decision:
            output.say(decision, style="dim")

    def on_waiting(seconds: float) -> None:
        nonlocal waited_s
        if seconds < waited_s:  # a new start
            waited_s = 0.0
        if seconds - waited_s >= 5:
            waited_s = seconds
            output.note(f"tritonserver is still loading models ({seconds:.0f} s)")

    def on_ready(models: Sequence[ServedModel]) -> None:
        output.stdout.print(_served(models), _next_steps(launch, health_address, models, encrypted), highlight=False)
        for model in models:
            if model.reason:
                label = f"{model.name}, version {model.version or '?'}, {model.state}"
                output.say(model.reason, label=label, style=output.RED)

    def on_restart(what: str, delay_s: float) -> None:
        output.say(f"{what}; restarting in {delay_s:.0f} s", style=output.RED)

    def on_stop(longest_s: float) -> None:
        output.say(f"stopping (at most {longest_s:.0f} s; repeat to stop at once)")

    return Callbacks(on_log, on_waiting, on_ready, on_restart, on_stop, output.note)


def _served(models: Sequence[ServedModel]) -> Table | str:
    if not models:
        return "no model is loaded yet"
    from rich.markup import escape
    from rich.table import Table

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
    from rich.console import Group
    from rich.markup import escape

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
