"""Runs tasks in worker processes, each under its own limits."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tnn_serving.errors import LimitError, WorkerError
from tnn_serving.workers.confinement import Confinement
from tnn_serving.workers.messages import (
    Ended,
    Failed,
    Job,
    Logged,
    Returned,
    Started,
    WorkerMessage,
    receive,
    send,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
"""How often the time of a worker is looked at."""

NICENESS = 19
"""Of tasks that let other processes go first, see ``setpriority(2)``."""

MOST_WAITING = 4
"""A worker that only waits for a processor is ended after this many times its time limit."""

START = """
import sys
sys.path[:] = sys.argv[1].split(":")
from tnn_serving.workers.server import main
main(sys.argv[2:])
"""
"""Runs the warm process with the paths that this one imports from: never from the folder that it happens to be in."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task returned, and what its worker could not do.

    Attributes:
        value: the result, of JSON's types.
        in_force: names of the means of confinement that applied.
    """

    value: Any
    in_force: list[str]


@dataclass(slots=True)
class _Progress:
    pid: int = 0
    returned: Returned | None = None
    failed: Failed | None = None
    code: int | None = None
    out_of_time: bool = False
    started: float = field(default_factory=time.monotonic)


class Workers:
    """Worker processes, forked from a warm one that starts with the first task.

    Args:
        preload: modules that tasks need.
        count: tasks that run at a time; others wait.
        idle_s: the warm process ends when it has had nothing to do for so long; ``None`` keeps it.
        python: the interpreter to start.
    """

    def __init__(
        self, preload: Sequence[str], count: int, *, idle_s: float | None = 30.0, python: str | None = None
    ) -> None:
        self._preload = list(preload)
        self._free = threading.BoundedSemaphore(count)
        self._idle_s = idle_s
        self._python = python or sys.executable
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._running = 0
        self._holders = 0
        self._closes = 0
        self._timer: threading.Timer | None = None

    def run(
        self,
        task: str,
        arguments: Mapping[str, Any],
        *,
        confinement: Confinement,
        timeout_s: float | None = None,
        waits: bool = True,
        yields: bool = False,
        renamed: tuple[str, str] | None = None,
    ) -> TaskResult:
        """Runs ``module:function`` with the arguments (of JSON's types), and gives what it returned.

        The time limit counts the clock, less the time during which the worker waited for a processor that others had;
        all in all, at most four times the limit.

        Args:
            waits: for its turn; a short task that a request waits for does not.
            yields: the task lets other processes go first.
            renamed: in what the task logs and raises, the first text is replaced by the second.

        Raises:
            LimitError: the task took longer, or more memory, than it may.
            WorkerError: the worker ended by a signal, or without a result.
            TnnError: what the task raised.
        """
        job = Job(
            task,
            dict(arguments),
            [os.fspath(path.absolute()) for path in confinement.reads],
            [os.fspath(path.absolute()) for path in confinement.writes],
            confinement.memory_bytes,
            confinement.file_bytes,
            NICENESS if yields else 0,
        )
        with self._free if waits else nullcontext():
            closes = self._closes
            progress = self._attempt(job, timeout_s, renamed)
            if progress.code is None and not progress.out_of_time and closes == self._closes:
                # The warm process was ended from outside, and its workers with it.
                progress = self._attempt(job, timeout_s, renamed)
        return _result(progress, timeout_s)

    def hold(self) -> None:
        """Keeps the warm process until :meth:`release`, however long it has nothing to do."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Takes one :meth:`hold` back."""
        with self._lock:
            self._holders -= 1
            self._await_idle()

    def close(self) -> None:
        """Ends the warm process, and every worker with it; the next task starts another one."""
        with self._lock:
            self._closes += 1
            self._stop()

    def _attempt(self, job: Job, timeout_s: float | None, renamed: tuple[str, str] | None) -> _Progress:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            with self._lock, there:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                control = self._warm()
                with suppress(OSError):  # it has been ended from outside, which is seen at once as the end of the job
                    send(control, job, [there.fileno()])
                self._running += 1
            progress = _Progress()
            try:
                _follow(here, progress, timeout_s, renamed)
                return progress
            finally:
                self._finished(control if progress.code is None else None)

    def _finished(self, lost: socket.socket | None) -> None:
        """Counts a job as finished. ``lost`` belongs to a warm process that was ended from outside."""
        with self._lock:
            self._running -= 1
            if lost is not None and lost is self._control:  # unless another job's thread has seen it first
                self._stop()
            self._await_idle()

    def _await_idle(self) -> None:
        if self._is_idle() and self._idle_s is not None and self._process is not None and self._timer is None:
            self._timer = threading.Timer(self._idle_s, self._stop_if_idle)
            self._timer.daemon = True
            self._timer.start()

    def _is_idle(self) -> bool:
        return not self._running and not self._holders

    def _stop_if_idle(self) -> None:
        with self._lock:
            self._timer = None
            if self._is_idle():
                self._stop()

    def _warm(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._stop()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._process = subprocess.Popen(
                [self._python, "-c", START, os.pathsep.join(sys.path), str(there.fileno()), *self._preload],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = here
        return here

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


def _follow(
    channel: socket.socket, progress: _Progress, timeout_s: float | None, renamed: tuple[str, str] | None
) -> None:
    """Follows a worker to its end, and ends it when its time is over. No exit code: its warm process was ended."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        if poll.poll(LOOK_EVERY_S * 1e3):
            try:
                packet, _ = receive(channel)
            except ValueError as error:
                log.warning("a worker: %s", error)
                continue
            except ConnectionResetError:  # once, where the request to end was not read: what was sent before follows
                continue
            if not packet:
                return
            _note(progress, packet, renamed)
            if progress.code is not None:
                return
        elif timeout_s is not None and not progress.out_of_time and _is_over(progress, timeout_s):
            progress.out_of_time = True
            with suppress(OSError):  # it has ended just now
                channel.send(b"end")


def _note(progress: _Progress, packet: bytes, renamed: tuple[str, str] | None) -> None:
    if renamed is not None:
        old, new = (msgspec.json.encode(text)[1:-1] for text in renamed)
        packet = packet.replace(old, new)
    try:
        message = msgspec.json.decode(packet, type=WorkerMessage)
    except msgspec.DecodeError:
        log.warning("a worker sent something else than a message")
        return
    if isinstance(message, Started):
        progress.pid = message.pid
    elif isinstance(message, Logged):
        logging.getLogger(message.logger).log(message.level, "%s", message.text)
    elif isinstance(message, Failed):
        progress.failed = message
    elif isinstance(message, Returned):
        progress.returned = message
    elif isinstance(message, Ended):
        progress.code = message.code


def _is_over(progress: _Progress, timeout_s: float) -> bool:
    passed = time.monotonic() - progress.started
    return passed > MOST_WAITING * timeout_s or passed - _waited_s(progress.pid) > timeout_s


def _waited_s(pid: int) -> float:
    """How long the thread of a process that waited longest for a processor has waited, from its ``schedstat``."""
    waited = 0.0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            waited = max(waited, int((task / "schedstat").read_text().split()[1]) * 1e-9)
    except (OSError, IndexError, ValueError):  # not started, ended, or a kernel without these figures
        pass
    return waited


def _result(progress: _Progress, timeout_s: float | None) -> TaskResult:
    if progress.out_of_time:
        raise LimitError(
            "loading takes too long",
            expected=f"at most {timeout_s:g} s",
            hint="the parameter `load_timeout_s` allows more",
        )
    if progress.failed is not None:
        raise progress.failed.facts.error()
    if progress.returned is not None and progress.code == 0:
        return TaskResult(progress.returned.value, progress.returned.in_force)
    if progress.code is not None and progress.code < 0:
        name = signal.Signals(-progress.code).name
        hint = "the kernel may have run out of memory" if -progress.code == signal.SIGKILL else None
        raise WorkerError("the worker that loads the model was ended by a signal", found=name, hint=hint)
    found = "the process that it was forked from was ended" if progress.code is None else f"exit code {progress.code}"
    raise WorkerError("the worker that loads the model ended without a result", found=found)
