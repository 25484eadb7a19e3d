"""What a pool, the process that workers are forked from, and the workers say to each other."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from tnn_serving import errors
from tnn_serving.errors import TnnError

MESSAGE_MAX_BYTES = 1 << 17
"""Size of a packet: what is larger goes through files."""


class Job(msgspec.Struct, tag=True, frozen=True):
    """A task ``module:function`` with its arguments, and what it may do; paths are absolute."""

    task: str
    arguments: dict[str, Any]
    reads: list[str]
    writes: list[str]
    memory_bytes: int | None
    file_bytes: int | None


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


def encoded(message: WorkerMessage | Job) -> bytes:
    """A message as a packet; texts that are too long for one are cut."""
    packet = msgspec.json.encode(message)
    if len(packet) <= MESSAGE_MAX_BYTES:
        return packet
    if isinstance(message, Logged):
        return msgspec.json.encode(Logged(message.logger, message.level, message.text[: MESSAGE_MAX_BYTES // 8]))
    what = f"a message of {len(packet)} bytes is too large for a packet"
    return msgspec.json.encode(Failed(ErrorFacts("TnnError", what, None, None, None, ())))


def facts_of(error: TnnError) -> ErrorFacts:
    """An error as data."""
    expected, found = (None if fact is None else str(fact)[:4096] for fact in (error.expected, error.found))
    return ErrorFacts(type(error).__name__, error.problem[:4096], expected, found, error.hint, error.where)
