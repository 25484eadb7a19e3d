"""The loop that keeps connections busy: one thread, one epoll, as few steps a request as there can be."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from tnn_serving.client.connection import Address
from tnn_serving.client.load.schedule import Record, Schedule, clock
from tnn_serving.errors import ServerError

LOOK_UP_S = 0.1
"""How often a loop that waits for answers looks whether it is to stop."""

DRAIN_S = 10.0

BUFFER_BYTES = 1 << 16

Check = Callable[[int, memoryview], "str | None"]
"""What is wrong with the body of a connection's answer, if anything: called with the connection's number."""


class Connection(ABC):
    """One socket that carries one request at a time, the same one again and again.

    What is sent and how answers are read is for the protocols to say.

    Attributes:
        due: when the request in flight was due.
        error: what was wrong with the last answer, ``None`` for nothing.
        blocked: the socket takes no more bytes for now; :meth:`send_rest` is to be called when it does.
        watched: the loop waits for that.
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
        """Connects; gives the descriptor. Raises OSError."""
        self._socket = socket.create_connection(self._endpoint, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._have = 0
        self.blocked = self.watched = False
        self._greet()
        self._socket.setblocking(False)
        return self._socket.fileno()

    @property
    def descriptor(self) -> int:
        """The socket's number; -1 when it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    @abstractmethod
    def _greet(self) -> None:
        """What is said before the first request."""

    @abstractmethod
    def send(self) -> None:
        """Sends the request, or as much of it as the socket takes. Raises OSError."""

    @abstractmethod
    def send_rest(self) -> None:
        """Sends on. Raises OSError."""

    def receive(self) -> bool:
        """Reads what has come; True when the answer is whole. Raises OSError when the connection is lost."""
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
        """Looks at the ``have`` bytes in the buffer and leaves in it what is not used; True when the answer is whole.

        Raises:
            OSError: they are none that such a server sends.
        """

    def _grow(self, size: int) -> None:
        """Makes the buffer larger and keeps what is in it."""
        larger = bytearray(size)
        larger[: self._have] = self._view[: self._have]
        self._buffer, self._view = larger, memoryview(larger)


class Loop:
    """Connections that are kept busy by whatever thread calls :meth:`run`.

    Raises:
        ServerError: the server cannot be reached.
    """

    def __init__(self, address: Address, connections: Sequence[Connection]) -> None:
        self._url = address.url
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        try:
            for connection in connections:
                self._add(connection)
        except OSError as error:
            self.close()
            raise self._gone(error) from error

    def _add(self, connection: Connection) -> None:
        descriptor = connection.open()
        self._connections[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

    def _gone(self, error: OSError) -> ServerError:
        return ServerError(f"no answer from {self._url}", found=error.strerror or str(error))

    def close(self) -> None:
        """Closes the connections, with whatever is in flight. Not to be called while :meth:`run` runs."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._epoll.close()

    def run(self, schedule: Schedule, record: Record, stopped: Callable[[], bool]) -> None:
        """Sends what is due until ``stopped()``; then waits for the answers to what is in flight, which don't count.

        Raises:
            ServerError: a lost connection cannot be opened again.
        """
        idle = deque(self._connections.values())
        connections, poll, take = self._connections, self._epoll.poll, schedule.take
        while not stopped():
            while idle:
                due = take(clock())
                if due is None:
                    break
                self._send(idle.popleft(), due)
            wait_s = LOOK_UP_S
            if idle:
                # epoll counts whole milliseconds, too coarse to send by; a select on it does not.
                select.select([self._epoll], (), (), min(schedule.wait_s(clock()), LOOK_UP_S))
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

    def _drain(self, busy: set[Connection]) -> None:
        """Waits for the last answers, or for the end of :data:`DRAIN_S`: the server still uses what belongs to them."""
        deadline = clock() + DRAIN_S
        while busy and clock() < deadline:
            for descriptor, event in self._epoll.poll(LOOK_UP_S):
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

    def _send(self, connection: Connection, due: float) -> None:
        connection.due = due
        try:
            connection.send()
        except OSError:
            return  # the socket is readable now, and reading tells what happened
        if connection.blocked:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        connection.watched = connection.blocked
        events = select.EPOLLIN | select.EPOLLOUT if connection.blocked else select.EPOLLIN
        self._epoll.modify(connection.descriptor, events)

    def _reopen(self, connection: Connection) -> None:
        del self._connections[connection.descriptor]
        connection.close()
        try:
            self._add(connection)
        except OSError as error:
            raise self._gone(error) from error
