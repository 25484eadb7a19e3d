"""Requests as bytes, and a server that records how they arrive."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

INFER = b"POST /v2/models/relu/infer HTTP/1.1\r\nHost: x\r\n"
JSON = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [-1, 2, -3, 4]}]}
).encode()
RIGHT = [0, 2, 0, 4]
"""The answer to it."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An answer; status 0 where the connection ended without one."""

    status: int
    head: str
    body: str

    @property
    def outputs(self) -> list[float]:
        """The values of the first output."""
        values: list[float] = json.loads(self.body)["outputs"][0]["data"]
        return values

    @property
    def error(self) -> str:
        """Why a request was refused."""
        return str(json.loads(self.body)["error"])


def with_length(body: bytes, *headers: bytes, start: bytes = INFER) -> bytes:
    """A request with a body of known length."""
    return start + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, size: int = 1, extension: bytes = b"", *headers: bytes) -> bytes:
    """A request with a body in chunks."""
    pieces = [body[k : k + size] for k in range(0, len(body), size)]
    text = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    more = b"".join(header + b"\r\n" for header in headers)
    return INFER + more + b"Transfer-Encoding: chunked\r\n\r\n" + text + b"0\r\n\r\n"


def send(
    address: tuple[str, int], request: bytes, timeout_s: float = 60.0, tls: ssl.SSLContext | None = None
) -> Answer:
    """Sends bytes and reads one answer."""
    with closing(connect(address, timeout_s, tls)) as connection:
        with suppress(ConnectionError):  # refused before all is sent; the answer may have arrived
            connection.sendall(request)
        return read_answer(connection)


def connect(address: tuple[str, int], timeout_s: float = 60.0, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection."""
    connection = socket.create_connection(address, timeout=timeout_s)
    return connection if tls is None else tls.wrap_socket(connection, server_hostname="localhost")


def read_answer(connection: socket.socket) -> Answer:
    """Reads one answer; interim ones are left out."""
    found = b""
    while True:
        head, blank, body = found.partition(b"\r\n\r\n")
        if blank and head.startswith(b"HTTP/1.1 100"):
            found = body
            continue
        length = _LENGTH.search(head + b"\r\n")
        if blank and length and len(body) >= int(length[1]):
            text = body[: int(length[1])].decode("utf-8", "replace")
            return Answer(int(head[9:12]), head.decode("latin-1").lower(), text)
        try:
            more = connection.recv(1 << 16)
        except ConnectionError:
            more = b""
        if not more:
            return Answer(int(head[9:12]) if head.startswith(b"HTTP/1") else 0, head.decode("latin-1"), body.decode())
        found += more


@dataclass
class Recorder:
    """A server that answers everything with 200 and keeps what it was sent, and how many connections it has."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    def newest(self) -> tuple[list[bytes], bytes]:
        """Lines of the head, and the body, of the newest request."""
        head, _, body = self.requests[-1].partition(b"\r\n\r\n")
        return head.lower().split(b"\r\n"), body


@contextmanager
def recorder() -> Iterator[Recorder]:
    """Runs a recorder on a free port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        found = Recorder(server.getsockname()[1])

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                rest = b""
                while True:
                    head, blank, body = rest.partition(b"\r\n\r\n")
                    length = _LENGTH.search(head + b"\r\n")
                    wanted = int(length[1]) if length else 0
                    if blank and len(body) >= wanted:
                        found.requests.append(head + blank + body[:wanted])
                        rest = body[wanted:]
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                        continue
                    more = connection.recv(1 << 16)
                    if not more:
                        return
                    rest += more

        def accept() -> None:
            with suppress(OSError):  # closed
                while True:
                    connection, _ = server.accept()
                    found.connections += 1
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield found
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
