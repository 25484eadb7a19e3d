"""Requests over HTTP/1.1 with binary tensors: requests are prebuilt, answers are parsed as little as possible."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tnn_serving.client.connection import Address
from tnn_serving.client.load.loop import Check, LoadConnection

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request_bytes(address: Address, model: str, body: Mapping[str, Any], binary: Sequence[bytes]) -> bytes:
    """A complete ``POST /v2/models/MODEL/infer``: the JSON ``body``, followed by its binary tensors."""
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


class HttpConnection(LoadConnection):
    """A persistent HTTP/1.1 connection.

    Args:
        address: of a server without encryption.
        slot: number of the connection, for ``check``.
        request: the complete request.
        check: verifies the body of each successful answer.
    """

    def __init__(self, address: Address, slot: int, request: bytes, check: Check | None = None) -> None:
        super().__init__(address)
        self._slot = slot
        self._request = request
        self._rest = memoryview(b"")
        self._check = check
        # The head of the last successful answer: an equal head has the same length and need not be parsed again.
        self._head = b""
        self._whole = -1

    def _send_preface(self) -> None:
        """HTTP/1.1 has no preface."""

    def send(self) -> None:
        """Sends the request, or the part that the socket accepts. Raises OSError."""
        try:
            sent = self._socket.send(self._request)
        except BlockingIOError:
            sent = 0
        if sent < len(self._request):
            self._rest = memoryview(self._request)[sent:]
            self.blocked = True

    def send_rest(self) -> None:
        """Sends the rest of the request. Raises OSError."""
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
        """Reads an answer with a new head, or one that is incomplete."""
        have = self._have
        if len(self._head) <= have < self._whole and self._buffer.startswith(self._head):
            return False
        end = self._buffer.find(_END, 0, have)
        if end < 0:
            if have == len(self._buffer):
                raise OSError("it is not an HTTP server")
            return False
        start = end + len(_END)
        head = bytes(self._view[:start])
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.") or length is None:
            raise OSError("the answer does not start with an HTTP/1.1 head that has a Content-Length")
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
    """Status and message of a refused request."""
    status = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")[2]
    try:
        message = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        message = content[:200].decode("utf-8", "replace")
    return f"{status}: {message}"
