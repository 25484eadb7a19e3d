"""Asks a running tritonserver what it serves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One version of a model as the repository index and the model's metadata show it.

    Attributes:
        version: empty when no version could be looked at.
        state: Triton's word: READY, UNAVAILABLE, LOADING, UNLOADING; empty for a folder that was not to be loaded.
        reason: why it is not ready.
        inputs, outputs: as ``name TYPE [dims]``, with -1 for a free dim; empty when it is not ready.
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


# Never through a proxy: the server is this machine's.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_json(url: str, *, post: bool = False, timeout_s: float = 5.0) -> Any:
    """The JSON that a GET (or an empty POST) answers; None for an empty answer.

    Raises:
        OSError: no connection, or an HTTP error (urllib.error.HTTPError).
    """
    request = urllib.request.Request(url, data=b"" if post else None, method="POST" if post else "GET")
    with _http.open(request, timeout=timeout_s) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def list_models(url: str) -> list[ServedModel]:
    """Every entry of the repository index, with the tensors of those that are ready.

    Raises:
        OSError: the server can't be reached or doesn't let us ask.
    """
    models = []
    for entry in get_json(f"{url}/v2/repository/index", post=True) or []:
        name, version = str(entry["name"]), str(entry.get("version", ""))
        state, reason = str(entry.get("state", "")), str(entry.get("reason", ""))
        metadata: Mapping[str, Any] = {}
        if state == "READY":
            try:
                metadata = get_json(f"{url}/v2/models/{quote(name, safe='')}/versions/{version}")
            except urllib.error.HTTPError as error:
                reason = f"no metadata: {error}"  # unloaded since, or restricted
        inputs, outputs = (tuple(map(_tensor, metadata.get(key, ()))) for key in ("inputs", "outputs"))
        models.append(ServedModel(name, version, state, reason, inputs, outputs))
    return models


def _tensor(tensor: Mapping[str, Any]) -> str:
    dims = ",".join(str(dim) for dim in tensor["shape"])
    return f"{tensor['name']} {tensor['datatype']} [{dims}]"
