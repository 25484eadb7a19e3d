"""One tritonserver process: its start, what it prints, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from tnn_serving.triton.launch import Launch

POLL_S = 0.2
KILL_AFTER_S = 5.0
"""How long after tritonserver's own exit timeout it is killed."""
DRAIN_S = 2.0
"""How long what an ended server has printed may take to be read."""
STACKS_S = 1.0
"""How long a server gets to write the stacks of its threads before it is killed."""
LOG_LINES = 4000  # more than tritonserver's usage text, which follows the word on a bad flag

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""What the child runs before it becomes tritonserver: whatever happens to its parent, no server is left behind.
SIGKILL, since after SIGTERM one may stay for ever. Not a ``preexec_fn``: that would run in a fork of this process with
whatever locks other threads (gRPC's, for one) held."""


class ServerProcess:
    """A tritonserver that has been started.

    Args:
        launch: command line and environment.
        on_line: called in a thread of its own with each line that the server prints.

    Attributes:
        log: the last lines that it printed.
    """

    def __init__(self, launch: Launch, on_line: Callable[[str], None]) -> None:
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._exit_timeout_s = launch.exit_timeout_s
        self._on_line = on_line
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *launch.command],
            env=dict(launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            # A session of its own: Ctrl-C reaches this process only, which then stops the server once.
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._child.stdout,), name="tritonserver log", daemon=True
        )
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                text = line.rstrip("\n")
                self.log.append(text)
                self._on_line(text)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def longest_end_s(self) -> float:
        """The most seconds that :meth:`end` takes."""
        return self._exit_timeout_s + KILL_AFTER_S

    def wait(self) -> int:
        """The exit code as :mod:`subprocess` gives it, when all that the server printed has been read."""
        code = self._child.wait()
        self._reader.join(DRAIN_S)
        if self._reader.is_alive():  # something that it has started lives on, with its end of the pipe
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._reader.join(DRAIN_S)
        return code

    def end(self, in_a_hurry: Callable[[], bool], wake: threading.Event) -> bool:
        """Asks the server to end; False if it had to be killed since it did not, or since somebody is in a hurry.

        Args:
            wake: set when ``in_a_hurry`` may have changed.
        """
        self._child.terminate()
        deadline = time.monotonic() + self.longest_end_s
        while self.running:
            if time.monotonic() > deadline or in_a_hurry():
                self.kill()
                return False
            wake.clear()
            wake.wait(POLL_S)
        return True

    def dump_stacks(self) -> None:
        """Has the backend print the Python stack of every thread, for the log, and gives it a moment to do so. A server
        without our backend ends by this signal, which is no loss: it is about to be killed."""
        self._child.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + STACKS_S
        while self.running and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Ends the server at once, whatever it does."""
        if self.running:
            self._child.kill()
            self._child.wait()


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"tritonserver ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"tritonserver was ended by {name}"
