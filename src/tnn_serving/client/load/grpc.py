"""Requests over gRPC at minimal cost: HTTP/2 frames are built once; only the stream number changes per request.

grpcio's client takes about five times as much CPU time per request, on the cores that the server needs. This module
implements as much of HTTP/2 (RFC 9113) and gRPC as one unary call at a time per connection needs.
"""

from __future__ import annotations

import struct
from collections import deque
from urllib.parse import unquote

import hpack

from tnn_serving.client.connection import Address
from tnn_serving.client.load.loop import Check, LoadConnection

METHOD = "/inference.GRPCInferenceService/ModelInfer"

DATA_FRAME, HEADERS_FRAME, RST_STREAM_FRAME, SETTINGS_FRAME = 0, 1, 3, 4
PING_FRAME, GOAWAY_FRAME, WINDOW_UPDATE_FRAME, CONTINUATION_FRAME = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 4, 5
"""Frame types, flags and settings of RFC 9113, sections 6 and 6.5.2."""

FRAME_BYTES = 1 << 14
"""Largest frame that every server accepts."""
LARGEST_FRAME_BYTES = 1 << 20
"""Largest frame that this client accepts."""
WINDOW_BYTES = 65535
"""Initial flow-control window of connections and streams."""
LARGEST_WINDOW_BYTES = (1 << 31) - 1
REFILL_BYTES = 1 << 30
"""The connection's receive window is refilled whenever this many bytes have been received."""

_HEAD = struct.Struct(">HBBBI")
"""A frame's length (upper 16 and lower 8 bits), type, flags and stream."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


class GrpcConnection(LoadConnection):
    """An HTTP/2 connection that carries one unary ``ModelInfer`` call at a time.

    Args:
        address: of a server without encryption.
        slot: number of the connection, for ``check``.
        message: a serialised ``ModelInferRequest``.
        check: verifies the serialised ``ModelInferResponse`` of each successful answer.
    """

    def __init__(self, address: Address, slot: int, message: bytes, check: Check | None = None) -> None:
        super().__init__(address)
        self._slot = slot
        self._check = check
        # Never indexed: the block does not depend on earlier ones.
        block = hpack.Encoder().encode(
            hpack.NeverIndexedHeaderTuple(name, value)
            for name, value in (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", METHOD),
                (":authority", address.target),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "tnn-serving-bench"),
            )
        )
        body = struct.pack(">BI", 0, len(message)) + message
        frames = [frame(HEADERS_FRAME, END_HEADERS, 0, block)]
        for at in range(0, len(body), FRAME_BYTES):
            last = END_STREAM if at + FRAME_BYTES >= len(body) else 0
            frames.append(frame(DATA_FRAME, last, 0, body[at : at + FRAME_BYTES]))
        self._request = bytearray(b"".join(frames))
        self._outgoing = memoryview(self._request)
        # Per frame: its end and its share of the flow-control windows; the offset of its stream number.
        self._frames: list[tuple[int, int]] = []
        self._stream_offsets: list[int] = []
        end = 0
        for k, one in enumerate(frames):
            self._stream_offsets.append(end + 5)
            end += len(one)
            self._frames.append((end, len(one) - _HEAD.size if k else 0))
        # The block of the last successful trailers: as our header table is empty, equal bytes are equal headers.
        self._good = b""

    def _send_preface(self) -> None:
        self._stream = -1
        self._queue: deque[memoryview] = deque()
        self._next_frame = len(self._frames)
        self._ends = False
        self._connection_window, self._initial_window = WINDOW_BYTES, WINDOW_BYTES
        self._stream_window = 0
        self._received = 0
        self._message = bytearray()
        self._block = b""
        ours = {
            HEADER_TABLE_SIZE: 0,
            ENABLE_PUSH: 0,
            INITIAL_WINDOW_SIZE: LARGEST_WINDOW_BYTES,
            MAX_FRAME_SIZE: LARGEST_FRAME_BYTES,
        }
        settings = b"".join(struct.pack(">HI", key, value) for key, value in ours.items())
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS_FRAME, 0, 0, settings)
            + frame(WINDOW_UPDATE_FRAME, 0, 0, struct.pack(">I", LARGEST_WINDOW_BYTES - WINDOW_BYTES))
        )

    def send(self) -> None:
        """Sends the request, or the part that the windows and the socket accept. Raises OSError."""
        self._stream += 2
        for at in self._stream_offsets:
            struct.pack_into(">I", self._request, at, self._stream)
        self._next_frame = 0
        self._stream_window = self._initial_window
        self._queue_allowed()
        self.send_rest()

    def _queue_allowed(self) -> None:
        """Queues the frames that fit into the windows."""
        first = allowed = self._frames[self._next_frame - 1][0] if self._next_frame else 0
        while self._next_frame < len(self._frames):
            end, size = self._frames[self._next_frame]
            if size > self._connection_window or size > self._stream_window:
                break
            self._connection_window -= size
            self._stream_window -= size
            allowed = end
            self._next_frame += 1
        if allowed > first:
            self._queue.append(self._outgoing[first:allowed])

    def send_rest(self) -> None:
        """Sends what is queued. Raises OSError."""
        queue = self._queue
        try:
            while queue:
                sent = self._socket.send(queue[0])
                if sent == len(queue[0]):
                    queue.popleft()
                else:
                    queue[0] = queue[0][sent:]
        except BlockingIOError:
            self.blocked = True
        else:
            self.blocked = False

    def _read(self, have: int) -> bool:
        view = self._view
        at = 0
        whole = False
        while have - at >= _HEAD.size:
            upper, lower, kind, flags, stream = _HEAD.unpack_from(view, at)
            start = at + _HEAD.size
            end = start + (upper << 8 | lower)
            if end > have:
                break
            whole |= self._handle_frame(kind, flags, stream, view[start:end])
            at = end
        self._have = have - at
        if at and self._have:
            view[: self._have] = bytes(view[at:have])
        elif self._have == len(self._buffer):
            self._grow(2 * len(self._buffer))
        if self._queue and not self.blocked:
            self.send_rest()
        return whole

    def _handle_frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> bool:
        """Handles one frame; True if it ends the answer."""
        if kind == DATA_FRAME:
            self._received += len(payload)
            if self._received > REFILL_BYTES:
                self._queue_frame(WINDOW_UPDATE_FRAME, 0, struct.pack(">I", self._received))
                self._received = 0
            if self._check is not None and stream == self._stream:
                self._message += _unpadded(flags, payload)
            return False
        if kind in (HEADERS_FRAME, CONTINUATION_FRAME):
            if stream != self._stream:
                return False
            self._block += bytes(payload if kind == CONTINUATION_FRAME else _unpadded(flags, payload))
            if kind == HEADERS_FRAME:
                self._ends = bool(flags & END_STREAM)
            if not flags & END_HEADERS:
                return False
            block, self._block = self._block, b""
            return self._ends and self._finished(block)
        if kind == WINDOW_UPDATE_FRAME:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self._connection_window += more
            elif stream == self._stream:
                self._stream_window += more
            self._queue_allowed()
        elif kind == SETTINGS_FRAME and not flags & ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == INITIAL_WINDOW_SIZE:
                    self._stream_window += value - self._initial_window
                    self._initial_window = value
            self._queue_frame(SETTINGS_FRAME, ACK, b"")  # before any byte that the new windows allow
            self._queue_allowed()
        elif kind == PING_FRAME and not flags & ACK:
            self._queue_frame(PING_FRAME, ACK, bytes(payload))
        elif kind == GOAWAY_FRAME:
            raise ConnectionResetError("closed by the server")
        elif kind == RST_STREAM_FRAME and stream == self._stream:
            raise ConnectionResetError(f"stream reset with code {struct.unpack('>I', payload)[0]}")
        return False

    def _queue_frame(self, kind: int, flags: int, payload: bytes) -> None:
        self._queue.append(memoryview(frame(kind, flags, 0, payload)))

    def _finished(self, block: bytes) -> bool:
        message, self._message = self._message, bytearray()
        if block != self._good:
            self.error = _refusal(block)
            if self.error is not None:
                if self._next_frame < len(self._frames) or any(part.obj is self._request for part in self._queue):
                    # The server answered before the end of the request; its rest would precede the next request.
                    raise ConnectionResetError(self.error)
                return True
            self._good = block
        self.error = self._check(self._slot, memoryview(message)[5:]) if self._check else None
        return True


def _unpadded(flags: int, payload: memoryview) -> memoryview:
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & PRIORITY else payload


def _refusal(block: bytes) -> str | None:
    """gRPC's status and the server's message in trailers; ``None`` if the call succeeded."""
    import grpc

    headers = {bytes(name): bytes(value) for name, value in hpack.Decoder().decode(block, raw=True)}
    status = int(headers.get(b"grpc-status", b"2"))
    if status == grpc.StatusCode.OK.value[0]:
        return None
    name = next((code.name for code in grpc.StatusCode if code.value[0] == status), str(status))
    return f"{name}: {unquote(headers.get(b'grpc-message', b'').decode('latin-1'))}"
