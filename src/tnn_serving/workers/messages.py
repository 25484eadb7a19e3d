"""What a pool, the process that workers are forked from, and the workers say to each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from tnn_serving import errors
from tnn_serving.errors import LimitError, TnnError

PACKET_MAX_BYTES = 1 << 17
"""Size of a packet. What is larger is sent as a file without a name."""

MESSAGE_MAX_BYTES = 1 << 26
"""Size of a message: a process that reads strangers' files is not to fill the memory of the one that reads this."""

IN_A_FILE = b"file"
"""The packet in place of a message that is in the file whose descriptor comes with it."""


class Job(msgspec.Struct, tag=True, frozen=True):
    """A task ``module:function`` with its arguments, and what it may do; paths are absolute.

    Attributes:
        niceness: how far the task yields to other processes, 0 to 19.
    """

    task: str
    arguments: dict[str, Any]
    reads: list[str]
    writes: list[str]
    memory_bytes: int | None
    file_bytes: int | None
    niceness: int


class Started(msgspec.Struct, tag=True, frozen=True):
    """The worker is process ``pid``, leader of a process group."""

    pid: int


class Logged(msgspec.Struct, tag=True, frozen=True):
    """A log record of the worker."""

    logger: str
    level: int
    text: str


class ErrorFacts(msgspec.Struct, frozen=True):
    """An error as data: the name of its class and its facts as text."""

    kind: str
    problem: str
    expected: str | None
    found: str | None
    hint: str | None
    where: tuple[str, ...]

    def error(self) -> TnnError:
        """The error again; a class that is not one of ours becomes :class:`TnnError`."""
        kind = getattr(errors, self.kind, TnnError)
        made: TnnError = (kind if isinstance(kind, type) and issubclass(kind, TnnError) else TnnError)(
            self.problem, expected=self.expected, found=self.found, hint=self.hint
        )
        made.where = self.where
        return made


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The task raised an error."""

    facts: ErrorFacts


class Returned(msgspec.Struct, tag=True, frozen=True):
    """What the task returned, as JSON values; and the means of confinement that were in force."""

    value: Any
    in_force: list[str]


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The worker has ended: its exit code, or the negative number of a signal."""

    code: int


WorkerMessage: TypeAlias = Started | Logged | Failed | Returned | Ended


def send(channel: socket.socket, message: WorkerMessage | Job, handles: Sequence[int] = ()) -> None:
    """Sends a message, with descriptors. Raises LimitError for one that is too large, OSError without a receiver."""
    packet = msgspec.json.encode(message)
    if len(packet) > MESSAGE_MAX_BYTES:
        raise LimitError(
            "a message between processes is too large",
            expected=f"at most {MESSAGE_MAX_BYTES} bytes",
            found=f"{len(packet)} bytes",
        )
    if len(packet) <= PACKET_MAX_BYTES:
        socket.send_fds(channel, [packet], handles)
        return
    file = os.memfd_create("message")
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(packet)
        socket.send_fds(channel, [IN_A_FILE], [*handles, file])
    finally:
        os.close(file)


def receive(channel: socket.socket, handles: int = 0) -> tuple[bytes, list[int]]:
    """A message as JSON, empty when the other side has gone, and up to ``handles`` descriptors that came with it.

    Raises OSError: the other side has gone. Raises ValueError for a message that is too large.
    """
    packet, received, _, _ = socket.recv_fds(channel, PACKET_MAX_BYTES, handles + 1)
    kept = received[:handles]
    try:
        if packet == IN_A_FILE and received:
            packet, kept = _content(received[-1]), received[:-1]
    finally:
        for handle in received[len(kept) :]:
            with suppress(OSError):
                os.close(handle)
    return packet, kept


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    if size > MESSAGE_MAX_BYTES:
        raise ValueError(f"a message of {size} bytes is larger than {MESSAGE_MAX_BYTES}")
    return os.pread(file, size, 0)


def facts_of(error: TnnError) -> ErrorFacts:
    """An error as data."""
    expected, found = (None if fact is None else str(fact)[:4096] for fact in (error.expected, error.found))
    return ErrorFacts(type(error).__name__, error.problem[:4096], expected, found, error.hint, error.where)
