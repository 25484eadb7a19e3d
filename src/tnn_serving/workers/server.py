"""The warm process that workers are forked from.

It imports what tasks need once, then forks a child per job, which confines itself and runs the task. It has one thread,
so that a fork copies a whole process, and it ends with the socket that jobs come from.

Messages are JSON, one per packet: a job from the pool; a process id, log records, and a result or an error from the
child; the exit status from this process.
"""

from __future__ import annotations

import importlib
import logging
import os
import selectors
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tnn_serving.errors import LimitError, TnnError
from tnn_serving.workers.confinement import Confinement, end_with
from tnn_serving.workers.messages import (
    PACKET_MAX_BYTES,
    Ended,
    Failed,
    Job,
    Logged,
    Returned,
    Started,
    WorkerMessage,
    facts_of,
    receive,
    send,
)

LOGGED_MAX_CHARACTERS = 10_000
"""Of a log record that a worker sends."""


class _Jobs:
    """The children that run, each with the socket of its job."""

    def __init__(self, control: socket.socket, alarm: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(alarm, selectors.EVENT_READ)
        self._alarm = alarm
        self._children: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Takes jobs until the pool goes."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    if not self._take():
                        self._end()
                        return
                elif key.fileobj is self._alarm:
                    self._alarm.recv(4096)
                    self._reap()
                elif key.data in self._children:  # the pool asks for the end of a job, or has gone away from it
                    with suppress(OSError):
                        self._children[key.data].recv(PACKET_MAX_BYTES)
                    self._selector.unregister(key.fileobj)
                    _kill(key.data)

    def _take(self) -> bool:
        packet, handles = receive(self._control, 1)
        if not packet or not handles:
            return False
        channel = socket.socket(fileno=handles[0])
        me = os.getpid()
        pid = os.fork()
        if not pid:
            end_with(me)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._control.close()
            for other in self._children.values():
                other.close()
            _work(channel, packet)
        self._children[pid] = channel
        _send(channel, Started(pid))
        self._selector.register(channel, selectors.EVENT_READ, pid)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            channel = self._children.pop(pid, None)
            if channel is None:
                continue
            _kill(pid)  # what it started itself
            if channel.fileno() in self._selector.get_map():
                self._selector.unregister(channel)
            _send(channel, Ended(os.waitstatus_to_exitcode(status)))
            channel.close()

    def _end(self) -> None:
        for pid in self._children:
            _kill(pid)


def _kill(pid: int) -> None:
    """Ends a child, which may not lead its group yet, and what it has started."""
    for end in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def _send(channel: socket.socket, message: WorkerMessage) -> None:
    with suppress(OSError):  # the pool has gone, which ends this process soon
        send(channel, message)


def _work(channel: socket.socket, packet: bytes) -> None:
    """Runs one job in a child, and ends it."""
    code = 1
    try:
        os.setsid()
        job = msgspec.json.decode(packet, type=Job)
        _yield(job.niceness)
        # Where memory runs out all the same, the kernel is to end this process and no other.
        Path("/proc/self/oom_score_adj").write_text("1000")
        task = _task(job.task)
        logging.getLogger().handlers[:] = [_Forwarding(channel)]
        in_force = Confinement(
            tuple(map(Path, job.reads)), tuple(map(Path, job.writes)), job.memory_bytes, job.file_bytes
        ).apply()
        _send(channel, Returned(task(job.arguments), in_force))
        code = 0
    except TnnError as error:
        _send(channel, Failed(facts_of(error)))
    except MemoryError:
        _send(channel, Failed(facts_of(_out_of_memory(job))))
    except BaseException as error:
        logging.getLogger("tnn_serving").exception("a worker failed")
        _send(channel, Failed(facts_of(TnnError(f"a worker failed: {type(error).__name__}: {error}"))))
    finally:
        os._exit(code)


def _yield(niceness: int) -> None:
    """Lowers the priority of this process, and of its session: where the kernel groups processes by session
    (``sched_autogroup_enabled``, see ``sched(7)``), the niceness of a process counts inside its group only."""
    os.nice(niceness)
    with suppress(OSError):  # a kernel without such groups
        Path("/proc/self/autogroup").write_text(str(niceness))


def _out_of_memory(job: Job) -> TnnError:
    return LimitError(
        "loading needs too much memory",
        expected=f"at most {job.memory_bytes} bytes",
        hint="the parameter `memory_limit_bytes` allows more",
    )


def _task(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


class _Forwarding(logging.Handler):
    """Sends what the package logs to the process that asked for the work."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._channel, Logged(record.name, record.levelno, record.getMessage()[:LOGGED_MAX_CHARACTERS]))


def main(arguments: Sequence[str]) -> None:
    """Serves the jobs that come from the socket ``arguments[0]``, with the modules imported that follow it."""
    control = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the pool decides
    for name in arguments[1:]:
        importlib.import_module(name)
    here, there = socket.socketpair()
    for one in (here, there):
        one.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(there.fileno())
    _Jobs(control, here).serve()
    signal.set_wakeup_fd(-1)
