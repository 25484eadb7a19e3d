"""Processes of a server: their start, their output, and their end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tnn_serving.errors import ServerError
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.log import Repeats

POLL_S = 0.2
KILL_AFTER_S = 5.0
"""tritonserver is killed this long after its exit timeout."""
LOG_DRAIN_S = 2.0
"""How long reading the rest of an ended server's output may take."""
STACKS_S = 1.0
"""How long a server may take to write the stacks of its threads before it is killed."""
LOG_LINES = 4000  # more than tritonserver's usage text, which follows the error about an invalid flag

DESCRIPTORS_NEEDED = 128
"""File descriptors of a server with a few models and connections: about 64 are open before the first request."""
DESCRIPTORS_WANTED = 1 << 20
"""More is of no use, and some systems allow so many that programs which close all of them take minutes."""
REAP_S = 1.0
"""Age of a zombie that nothing in this process waits for."""

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs in the child before it becomes the program: when the parent ends for any reason, the child is killed.
SIGKILL, since a server may not end after SIGTERM. Not a ``preexec_fn``: that runs in a fork of this process, in which
locks of other threads (such as gRPC's) may be held forever."""


class ChildProcess:
    """A process that ends with this one.

    Args:
        command: its command line; the first word is the path of the program.
        environment: all of its environment.
        on_line: called in a separate thread with each line of its output.
        name: the program's name in messages.

    Attributes:
        log: the last lines of the output.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None], name: str
    ) -> None:
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.name = name
        self._on_line = on_line
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            # A separate session: Ctrl-C reaches only this process, which then stops the child.
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), name=f"{name} log", daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        repeats = Repeats()
        with stream:
            for line in stream:
                for text in repeats.passed(line.rstrip("\n")):
                    self.log.append(text)
                    self._on_line(text)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait(self) -> int:
        """Waits for the end of the process and of its output; returns the exit code of :mod:`subprocess`."""
        code = self._child.wait()
        self._reader.join(LOG_DRAIN_S)
        if self._reader.is_alive():  # a child of it is still running and holds the pipe open
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._reader.join(LOG_DRAIN_S)
        return code

    def kill(self) -> None:
        """Kills the process."""
        if self.running:
            self._child.kill()
            self._child.wait()

    def describe_exit(self, code: int) -> str:
        """A sentence for an exit code."""
        if code >= 0:
            return f"{self.name} ended with code {code}"
        try:
            signal_name = signal.Signals(-code).name
        except ValueError:
            signal_name = f"signal {-code}"
        return f"{self.name} was ended by {signal_name}"


class ServerProcess(ChildProcess):
    """A tritonserver process."""

    def __init__(self, launch: Launch, on_line: Callable[[str], None]) -> None:
        super().__init__(launch.command, launch.environment, on_line, "tritonserver")
        self._exit_timeout_s = launch.exit_timeout_s

    @property
    def longest_end_s(self) -> float:
        """The longest time that :meth:`end` takes."""
        return self._exit_timeout_s + KILL_AFTER_S

    def end(self, stop_now: Callable[[], bool], wake: threading.Event, spent_s: float = 0.0) -> bool:
        """Stops the server; False if it had to be killed, because it did not end in time or ``stop_now()`` is true.

        Args:
            wake: set when the result of ``stop_now`` may have changed.
            spent_s: how much of the time for the end has passed.
        """
        self._child.terminate()
        deadline = time.monotonic() + max(self.longest_end_s - spent_s, KILL_AFTER_S)
        while self.running:
            if time.monotonic() > deadline or stop_now():
                self.kill()
                return False
            wake.clear()
            wake.wait(POLL_S)
        return True

    def dump_stacks(self) -> None:
        """Makes the backend write the Python stacks of all threads to the log, and waits briefly. Without our backend,
        the signal ends the server, which is about to be killed anyway."""
        self._child.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + STACKS_S
        while self.running and time.monotonic() < deadline:
            time.sleep(POLL_S)


def descriptors(pid: int) -> tuple[int, int] | None:
    """How many file descriptors a process has open, and how many it may have; ``None`` if it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd")), resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return None


def allow_descriptors() -> None:
    """Raises this process' limit of file descriptors, which its children get, as far as it may be raised.

    Raises:
        ServerError: it is too low for a server.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if most < DESCRIPTORS_NEEDED:
        raise ServerError(
            "too few file descriptors for a server: each connection and each model takes some",
            expected=f"at least {DESCRIPTORS_NEEDED}, better some thousands",
            found=hard,
            hint="raise the hard limit: ulimit -n, LimitNOFILE of systemd, --ulimit nofile of containers",
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Orphans:
    """Takes leave of processes that this one inherits as process 1 of a container: nothing else waits for them."""

    def __init__(self) -> None:
        self._zombies: dict[int, float] = {}

    def reap(self) -> None:
        """Ends zombies that are older than :data:`REAP_S`; those that are waited for do not become so old."""
        if os.getpid() != 1:
            return
        now, found = time.monotonic(), set(_zombies())
        self._zombies = {pid: since for pid, since in self._zombies.items() if pid in found}
        for pid in found:
            if now - self._zombies.setdefault(pid, now) > REAP_S:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _zombies() -> Iterator[int]:
    """Children of this process that have ended."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    yield int(folder.name)
