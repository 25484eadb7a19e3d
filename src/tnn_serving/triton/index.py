"""Requests to a running tritonserver's repository API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

UNLOAD_PAUSE_S = 0.1
"""Pause between a model's load and its unload: tritonserver's core crashes if a model is unloaded within about 30 ms of
its load, before the thread of its instance is back in the list that the unload searches."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One version of a model, from the repository index and the model's metadata.

    Attributes:
        version: empty if no version could be read.
        state: Triton's state: READY, UNAVAILABLE, LOADING, UNLOADING; empty for a folder that was not requested.
        reason: why it is not ready.
        inputs, outputs: as ``name TYPE [dims]``, with -1 for a free dim; empty if it is not ready.
    """

    name: str
    version: str
    state: str
    reason: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return self.state == "READY"


# Never through a proxy: the server is on this machine.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The URL of a server, e.g. ``http://127.0.0.1:8000``, and the headers for its restricted APIs."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def ask(self, path: str, *, post: bool = False, timeout_s: float = 5.0) -> bytes:
        """The body of the answer to a GET, or to an empty POST.

        Raises:
            OSError: no connection, no answer in time, or an HTTP error (urllib.error.HTTPError).
        """
        request = urllib.request.Request(
            self.url + path, data=b"" if post else None, headers=dict(self.headers), method="POST" if post else "GET"
        )
        with _http.open(request, timeout=timeout_s) as answer:
            content: bytes = answer.read()
        return content


def repository_index(server: Endpoint, *, timeout_s: float = 5.0) -> list[ServedModel]:
    """Every entry of the repository index, without tensors.

    Raises:
        OSError: the server cannot be reached, or refuses the request.
    """
    entries = json.loads(server.ask("/v2/repository/index", post=True, timeout_s=timeout_s) or b"[]")
    return [
        ServedModel(
            name=str(entry["name"]),
            version=str(entry.get("version", "")),
            state=str(entry.get("state", "")),
            reason=str(entry.get("reason", "")),
        )
        for entry in entries
    ]


def list_models(server: Endpoint) -> list[ServedModel]:
    """Every entry of the repository index, with the tensors of those that are ready.

    Raises:
        OSError: the server cannot be reached, or refuses the request.
    """
    return [_with_tensors(server, model) if model.ready else model for model in repository_index(server)]


def request_load(server: Endpoint, name: str, *, timeout_s: float) -> None:
    """Makes the server load a model, and waits until it is loaded.

    Raises:
        OSError: the server cannot be reached; HTTPError with Triton's reason if the model cannot be loaded.
    """
    server.ask(f"/v2/repository/models/{urllib.parse.quote(name, safe='')}/load", post=True, timeout_s=timeout_s)


def request_unload(server: Endpoint, name: str, *, timeout_s: float) -> None:
    """Makes the server unload a model, after a pause of :data:`UNLOAD_PAUSE_S`.

    Raises:
        OSError: the server cannot be reached, or refuses the request.
    """
    time.sleep(UNLOAD_PAUSE_S)
    server.ask(f"/v2/repository/models/{urllib.parse.quote(name, safe='')}/unload", post=True, timeout_s=timeout_s)


def _with_tensors(server: Endpoint, model: ServedModel) -> ServedModel:
    name = urllib.parse.quote(model.name, safe="")
    try:
        metadata = json.loads(server.ask(f"/v2/models/{name}/versions/{model.version}"))
    except urllib.error.HTTPError as error:
        return replace(model, reason=f"no metadata: {error}")  # unloaded since, or restricted
    inputs, outputs = (tuple(map(_tensor, metadata.get(key, ()))) for key in ("inputs", "outputs"))
    return replace(model, inputs=inputs, outputs=outputs)


def _tensor(tensor: Mapping[str, Any]) -> str:
    dims = ",".join(str(dim) for dim in tensor["shape"])
    return f"{tensor['name']} {tensor['datatype']} [{dims}]"
