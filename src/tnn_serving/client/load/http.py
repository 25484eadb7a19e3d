"""Requests over HTTP/1.1 with binary tensors: prebuilt bytes, and answers of which as little as possible is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tnn_serving.client.connection import Address
from tnn_serving.client.load.loop import Check, Connection

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request_bytes(address: Address, model: str, body: Mapping[str, Any], binary: Sequence[bytes]) -> bytes:
    """A whole ``POST /v2/models/MODEL/infer``: the JSON ``body``, and behind it the tensors that it announces."""
    host, _, prefix = address.target.partition("/")
    header = json.dumps(body, separators=(",", ":")).encode()
    content = b"".join([header, *binary])
    lines = [
        f"POST {'/' + prefix if prefix else ''}/v2/models/{model}/infer HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(header)}",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(lines).encode() + _END + content


class HttpConnection(Connection):
    """A connection that stays open.

    Args:
        address: of a server without encryption.
        slot: number of the connection, for ``check``.
        request: the bytes that it sends.
        check: looks at the body of each good answer.
    """

    def __init__(self, address: Address, slot: int, request: bytes, check: Check | None = None) -> None:
        super().__init__(address)
        self._slot = slot
        self._request = request
        self._rest = memoryview(b"")
        self._check = check
        # The head of the last good answer: one that is the same says the same length, and need not be read again.
        self._head = b""
        self._whole = -1

    def _greet(self) -> None:
        """Nothing: a connection begins with its first request."""

    def send(self) -> None:
        """Sends the request, or as much of it as the socket takes. Raises OSError."""
        try:
            sent = self._socket.send(self._request)
        except BlockingIOError:
            sent = 0
        if sent < len(self._request):
            self._rest = memoryview(self._request)[sent:]
            self.blocked = True

    def send_rest(self) -> None:
        """Sends on. Raises OSError."""
        self._rest = self._rest[self._socket.send(self._rest) :]
        self.blocked = bool(self._rest)

    def _read(self, have: int) -> bool:
        if have == self._whole and self._buffer.startswith(self._head):
            self._have = 0
            self.error = self._check(self._slot, self._view[len(self._head) : have]) if self._check else None
            return True
        self._have = have
        return self._read_head()

    def _read_head(self) -> bool:
        """The same for an answer whose head is another one than before, or that is not whole yet."""
        have = self._have
        if len(self._head) <= have < self._whole and self._buffer.startswith(self._head):
            return False
        end = self._buffer.find(_END, 0, have)
        if end < 0:
            if have == len(self._buffer):
                raise OSError("what answers is no HTTP server")
            return False
        start = end + len(_END)
        head = bytes(self._view[:start])
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.") or length is None:
            raise OSError("the answer does not begin as one of an HTTP/1.1 server with its length")
        whole = start + int(length[1])
        if whole > len(self._buffer):
            self._grow(whole)
        good = head.startswith(b"HTTP/1.1 200")
        if good:
            self._head, self._whole = head, whole
        if have < whole:
            return False
        self._have = 0
        content = self._view[start:whole]
        if not good:
            self.error = _reason(head, bytes(content))
        else:
            self.error = self._check(self._slot, content) if self._check else None
        return True


def _reason(head: bytes, content: bytes) -> str:
    """The server's words on a request that it refused, after its status."""
    status = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")[2]
    try:
        said = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        said = content[:200].decode("utf-8", "replace")
    return f"{status}: {said}"
