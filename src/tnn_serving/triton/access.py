"""Access control: the token for administrative requests.

Triton can restrict groups of endpoints to callers that send a header. This can be set only with flags, so the token is
on tritonserver's command line.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tnn_serving.errors import ConfigError
from tnn_serving.triton.flags import flag_values
from tnn_serving.triton.launch import Launch

MODEL_API = "model-repository"
ADMIN_APIS = (MODEL_API, "shared-memory", "trace", "logging")
"""APIs that need a token: loading and unloading models, reading and writing this machine's shared memory, and writing
traces and logs to files on it."""

TOKEN_HEADER = "tnn-admin-token"
GRPC_PREFIX = "triton-grpc-protocol-"
"""Triton's prefix of a header's name in gRPC metadata."""

_FLAGS = {"http": "http-restricted-api", "grpc": "grpc-restricted-protocol"}
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,256}")


@dataclass(frozen=True, slots=True)
class Restriction:
    """One ``--http-restricted-api`` or ``--grpc-restricted-protocol``: ``api,api:header=value``."""

    apis: tuple[str, ...]
    header: str
    value: str

    def __str__(self) -> str:
        return f"{','.join(self.apis)}:{self.header}={self.value}"


def restrictions(launch: Launch, protocol: str) -> list[Restriction]:
    """The restrictions of "http" or "grpc" on a command line. Malformed ones are left for tritonserver to report."""
    found = []
    for text in flag_values(launch.command, _FLAGS[protocol]):
        apis, _, pair = text.partition(":")
        header, _, value = pair.partition("=")
        found.append(Restriction(tuple(apis.split(",")), header, value))
    return found


def http_headers(launch: Launch) -> dict[str, str]:
    """HTTP headers that give access to all restricted APIs."""
    return {one.header: one.value for one in restrictions(launch, "http") if one.header}


def is_open(launch: Launch) -> bool:
    """Whether other machines can reach HTTP or gRPC."""
    endpoints = (launch.endpoint("http"), launch.endpoint("grpc"))
    return any(endpoint is not None and not is_loopback(endpoint[0]) for endpoint in endpoints)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; False if the address cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def protected_apis(launch: Launch, wanted: bool | None = None) -> tuple[str, ...]:
    """The APIs that need a token.

    Loading by request always does: any web page that is open in a browser on this machine can send such a request to a
    loopback address, but no header with it.

    Args:
        wanted: all of :data:`ADMIN_APIS`, or as few as possible; by default all if other machines reach the server.
    """
    if wanted or (wanted is None and is_open(launch)):
        return ADMIN_APIS
    return (MODEL_API,) if launch.control_mode == "explicit" else ()


def with_token(launch: Launch, token: str, apis: Sequence[str] = ADMIN_APIS) -> Launch:
    """The launch with APIs restricted to callers with the token, except those that are already restricted by the user's
    flags."""
    command = list(launch.command)
    for protocol, flag in _FLAGS.items():
        restricted = {api for one in restrictions(launch, protocol) for api in one.apis}
        ours = tuple(api for api in apis if api not in restricted)
        if ours:
            command.append(f"--{flag}={Restriction(ours, TOKEN_HEADER, token)}")
    return replace(launch, command=tuple(command))


def new_token() -> str:
    """A new random token."""
    import secrets  # which imports several modules for this alone

    return secrets.token_urlsafe(24)


def checked_token(text: str, source: str) -> str:
    """A user's token without surrounding white space.

    Raises:
        ConfigError: it is too short, or has characters that a flag or a header cannot contain.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"the admin token in {source} is invalid",
            expected="16 to 256 of the characters A-Z a-z 0-9 . _ ~ -",
            found=f"{len(token)} characters",
            hint="create one with: openssl rand -hex 24",
        )
    return token


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: the file cannot be read, or contains no valid token.
    """
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the admin token file cannot be read", found=f"{file}: {error}") from error
    return checked_token(text, str(file))


def readable_by_all(file: Path) -> bool:
    """Whether every user of this machine may read a file."""
    return bool(file.stat().st_mode & stat.S_IROTH)
