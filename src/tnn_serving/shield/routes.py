"""Envoy's routes: which requests go where, and which are refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tnn_serving.shield import paths
from tnn_serving.shield.clusters import TYPES
from tnn_serving.triton.access import GRPC_PREFIX, Restriction

Route = dict[str, Any]

NOT_STARTED: Mapping[str, Any] = {"retry_on": "connect-failure,refused-stream", "num_retries": 1}
"""Repeats requests that no server has begun."""

_PER_ROUTE = f"{TYPES}.extensions.filters.http"
_NOT_BUFFERED = {"whole": {"@type": f"{_PER_ROUTE}.buffer.v3.BufferPerRoute", "disabled": True}}
_JSON_NOT_READ = {"json": {"@type": f"{_PER_ROUTE}.lua.v3.LuaPerRoute", "disabled": True}}


def matching(path: paths.Path, headers: Iterable[Mapping[str, Any]] = ()) -> Route:
    """The requests of a kind, with these headers."""
    method = {"name": ":method", "string_match": {"exact": path.method}}
    return {"safe_regex": {"regex": path.pattern}, "headers": [method, *headers]}


def passed(
    protocol: str,
    path: paths.Path,
    match: Mapping[str, Any],
    retry: Mapping[str, Any] | None,
    *,
    cluster: str | None = None,
    code: str | None = None,
    target: Mapping[str, Any] | None = None,
) -> Route:
    """A route to servers.

    Args:
        retry: which failed requests are repeated; None for none.
        cluster: name of the cluster; by default that of the protocol.
        code: name of the Lua code that reads its requests.
        target: further settings of the route.
    """
    route: dict[str, Any] = {"cluster": cluster or protocol, "timeout": "0s", **(target or {})}
    if retry is not None:
        route["retry_policy"] = dict(retry)
    filters: dict[str, Any] = {}
    if path.streams:
        route["idle_timeout"] = "0s"
        filters |= _NOT_BUFFERED
    if code is not None:
        filters["by_route"] = {"@type": f"{_PER_ROUTE}.lua.v3.LuaPerRoute", "name": code}
    if protocol == "http" and path.method == "GET":
        filters |= _JSON_NOT_READ
    return {"match": dict(match), "route": route, "typed_per_filter_config": filters}


def refused(status: int, text: str, protocol: str, match: Mapping[str, Any]) -> Route:
    """A route that answers without waiting for the body."""
    return {
        "match": dict(match),
        "direct_response": {"status": status, "body": {"inline_string": text}},
        "typed_per_filter_config": _NOT_BUFFERED | (_JSON_NOT_READ if protocol == "http" else {}),
    }


def with_refusals(protocol: str, routes: Iterable[Route]) -> list[Route]:
    """The routes, and what is refused before and after them."""
    first = [_TUNNEL, _UNKNOWN_ENCODING] if protocol == "http" else []
    return [*first, *routes, refused(404, "there is nothing at this path and method", protocol, {"prefix": "/"})]


def served(protocol: str, kinds: Iterable[paths.Path], restrictions: Sequence[Restriction] = ()) -> Iterable[Route]:
    """The routes to one server. For a restricted one without its header, there is a refusal."""
    prefix = GRPC_PREFIX if protocol == "grpc" else ""
    for path in kinds:
        wanted = [one for one in restrictions if path.api in one.apis]
        secrets = [{"name": prefix + one.header, "string_match": {"exact": one.value}} for one in wanted]
        code = "model_names" if path.names_model else None
        yield passed(protocol, path, matching(path, secrets), NOT_STARTED, code=code)
        if wanted:
            names = ", ".join(prefix + one.header for one in wanted)
            yield refused(403, f"this needs the header {names}", protocol, matching(path))


_TUNNEL = refused(404, "there are no tunnels", "http", {"connect_matcher": {}})
_UNKNOWN_ENCODING = refused(
    415,
    "request bodies may be compressed with gzip only",
    "http",
    {
        "prefix": "/",
        "headers": [
            {
                "name": "content-encoding",
                "string_match": {"safe_regex": {"regex": "identity|gzip"}},
                "invert_match": True,
            }
        ],
    },
)
