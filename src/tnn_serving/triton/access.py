"""Who may do what: the token that administration needs when the server can be reached from other machines.

Triton restricts groups of endpoints to callers that send a header. Its flags for that are the only way in, so the
token stands on tritonserver's command line.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from tnn_serving.errors import ConfigError
from tnn_serving.triton.launch import Launch, flag_values

ADMIN_APIS = ("model-repository", "shared-memory", "trace", "logging")
"""What takes a token: loading and unloading models, reading and writing this machine's shared memory, and having
traces and logs written to files here."""

TOKEN_HEADER = "tnn-admin-token"
GRPC_PREFIX = "triton-grpc-protocol-"
"""What Triton puts before the name of a header in gRPC metadata."""

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
    """Every restriction of "http" or "grpc" on a command line that can be read; tritonserver complains of others."""
    found = []
    for text in flag_values(launch.command, _FLAGS[protocol]):
        apis, _, pair = text.partition(":")
        header, _, value = pair.partition("=")
        found.append(Restriction(tuple(apis.split(",")), header, value))
    return found


def http_headers(launch: Launch) -> dict[str, str]:
    """What to send with each HTTP request in order to be let in everywhere."""
    return {one.header: one.value for one in restrictions(launch, "http") if one.header}


def is_open(launch: Launch) -> bool:
    """Whether HTTP or gRPC can be reached from other machines."""
    endpoints = (launch.endpoint("http"), launch.endpoint("grpc"))
    return any(endpoint is not None and not is_loopback(endpoint[0]) for endpoint in endpoints)


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only; False for one that can't be looked up."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def with_token(launch: Launch, token: str) -> Launch:
    """The launch with :data:`ADMIN_APIS` restricted to callers with the token, except those that the user's own flags
    restrict already."""
    command = list(launch.command)
    for protocol, flag in _FLAGS.items():
        taken = {api for one in restrictions(launch, protocol) for api in one.apis}
        apis = tuple(api for api in ADMIN_APIS if api not in taken)
        if apis:
            command.append(f"--{flag}={Restriction(apis, TOKEN_HEADER, token)}")
    return replace(launch, command=tuple(command))


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def checked_token(text: str, source: str) -> str:
    """A token that somebody chose, without the white space around it.

    Raises:
        ConfigError: too short, or with characters that a flag or a header could not carry.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"the admin token in {source} can't be used",
            expected="16 to 256 of the characters A-Z a-z 0-9 . _ ~ -",
            found=f"{len(token)} characters",
            hint="make one with: openssl rand -hex 24",
        )
    return token


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: the file can't be read, or holds no usable token.
    """
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the file with the admin token can't be read", found=f"{file}: {error}") from error
    return checked_token(text, str(file))
