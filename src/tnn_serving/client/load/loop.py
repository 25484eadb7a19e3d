"""The loop that keeps connections busy: one thread, one epoll, as few steps per request as possible."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from tnn_serving.client.connection import Address
from tnn_serving.client.load.schedule import Record, Schedule, clock
from tnn_serving.errors import ServerError

STOP_POLL_S = 0.1
"""How often a loop that waits for answers checks whether to stop."""

LAST_ANSWERS_S = 10.0
"""How long a stopped loop waits for the answers to requests in flight."""

BUFFER_BYTES = 1 << 16

Check = Callable[[int, memoryview], "str | None"]
"""The error in the body of an answer, if any; called with the connection's number and the body."""


class LoadConnection(ABC):
    """A socket that sends the same request again and again, one at a time.

    A subclass per protocol sends requests and reads answers.

    Attributes:
        due: when the request in flight was due.
        error: the error in the last answer, or ``None``.
        blocked: the socket's send buffer is full; :meth:`send_rest` must be called when there is room.
        watched: the loop waits for room in the send buffer.
    """

    def __init__(self, address: Address) -> None:
        host, _, port = address.target.partition("/")[0].rpartition(":")
        self._endpoint = host.strip("[]"), int(port)
        self._socket = socket.socket()
        self._socket.close()
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._have = 0
        self.due = 0.0
        self.error: str | None = None
        self.blocked = False
        self.watched = False

    def open(self) -> int:
        """Connects; returns the file descriptor. Raises OSError."""
        self._socket = socket.create_connection(self._endpoint, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._have = 0
        self.blocked = self.watched = False
        self._send_preface()
        self._socket.setblocking(False)
        return self._socket.fileno()

    @property
    def descriptor(self) -> int:
        """The file descriptor; -1 if the socket is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    @abstractmethod
    def _send_preface(self) -> None:
        """Sends what the protocol requires before the first request."""

    @abstractmethod
    def send(self) -> None:
        """Sends the request, or the part that the socket accepts. Raises OSError."""

    @abstractmethod
    def send_rest(self) -> None:
        """Sends the rest of the request. Raises OSError."""

    def receive(self) -> bool:
        """Reads what has arrived; True if the answer is complete. Raises OSError if the connection is lost."""
        have = self._have
        try:
            count = self._socket.recv_into(self._view[have:] if have else self._view)
        except BlockingIOError:
            return False
        if not count:
            raise ConnectionResetError("closed by the server")
        return self._read(have + count)

    @abstractmethod
    def _read(self, have: int) -> bool:
        """Parses the ``have`` bytes in the buffer and leaves unused bytes there; True if the answer is complete.

        Raises:
            OSError: the bytes do not follow the protocol.
        """

    def _grow(self, size: int) -> None:
        """Enlarges the buffer and keeps its content."""
        larger = bytearray(size)
        larger[: self._have] = self._view[: self._have]
        self._buffer, self._view = larger, memoryview(larger)


class Loop:
    """Connections that are kept busy by the thread that calls :meth:`run`.

    Raises:
        ServerError: the server cannot be reached.
    """

    def __init__(self, address: Address, connections: Sequence[LoadConnection]) -> None:
        self._url = address.url
        self._epoll = select.epoll()
        self._connections: dict[int, LoadConnection] = {}
        try:
            for connection in connections:
                self._add(connection)
        except OSError as error:
            self.close()
            raise self._no_answer(error) from error

    def _add(self, connection: LoadConnection) -> None:
        descriptor = connection.open()
        self._connections[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

    def _no_answer(self, error: OSError) -> ServerError:
        return ServerError(f"no answer from {self._url}", found=error.strerror or str(error))

    def close(self) -> None:
        """Closes the connections and drops requests in flight. Must not be called while :meth:`run` runs."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._epoll.close()

    def run(self, schedule: Schedule, record: Record, stopped: Callable[[], bool]) -> None:
        """Sends requests when they are due until ``stopped()``; then waits for the answers in flight, without recording
        them.

        Raises:
            ServerError: a lost connection cannot be reopened.
        """
        idle = deque(self._connections.values())
        connections, poll, take = self._connections, self._epoll.poll, schedule.take
        while not stopped():
            while idle:
                due = take(clock())
                if due is None:
                    break
                self._send(idle.popleft(), due)
            wait_s = STOP_POLL_S
            if idle:
                # epoll's timeout is in whole milliseconds, too coarse here; select's is not.
                select.select([self._epoll], (), (), min(schedule.wait_s(clock()), STOP_POLL_S))
                wait_s = 0.0
            for descriptor, event in poll(wait_s):
                connection = connections[descriptor]
                try:
                    if event & select.EPOLLOUT:
                        connection.send_rest()
                    whole = event != select.EPOLLOUT and connection.receive()
                    error = connection.error
                except OSError as broken:
                    whole, error = True, f"connection lost: {broken.strerror or broken}"
                    self._reopen(connection)
                if whole:
                    now = clock()
                    record.add(connection.due, now, error)
                    due = take(now)
                    if due is None:
                        idle.append(connection)
                    else:
                        self._send(connection, due)
                if connection.blocked is not connection.watched:
                    self._watch(connection)
        self._drain(set(connections.values()).difference(idle))

    def _drain(self, busy: set[LoadConnection]) -> None:
        """Waits up to :data:`LAST_ANSWERS_S` for the last answers: the server still uses their shared memory."""
        deadline = clock() + LAST_ANSWERS_S
        while busy and clock() < deadline:
            for descriptor, event in self._epoll.poll(STOP_POLL_S):
                connection = self._connections[descriptor]
                try:
                    if event & select.EPOLLOUT:
                        connection.send_rest()
                    if event != select.EPOLLOUT and connection.receive():
                        busy.discard(connection)
                except OSError:
                    busy.discard(connection)
                    self._epoll.unregister(descriptor)
                    continue
                if connection.blocked is not connection.watched:
                    self._watch(connection)

    def _send(self, connection: LoadConnection, due: float) -> None:
        connection.due = due
        try:
            connection.send()
        except OSError:
            return  # the socket is readable now; reading reports the error
        if connection.blocked:
            self._watch(connection)

    def _watch(self, connection: LoadConnection) -> None:
        connection.watched = connection.blocked
        events = select.EPOLLIN | select.EPOLLOUT if connection.blocked else select.EPOLLIN
        self._epoll.modify(connection.descriptor, events)

    def _reopen(self, connection: LoadConnection) -> None:
        del self._connections[connection.descriptor]
        connection.close()
        try:
            self._add(connection)
        except OSError as error:
            raise self._no_answer(error) from error
