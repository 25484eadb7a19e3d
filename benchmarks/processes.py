"""A server's processes: started, measured, frozen while others are measured, ended.

All processes of a server inherit a mark in their environment, so that they are found even if they are no longer
descendants of the server, like daemons.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "TNN_SERVING_BENCHMARK"
END_S = 5.0
REST_S = 1.0


def _exit_on_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)


class Processes:
    """A command and all processes that it starts.

    Args:
        command: the command line.
        log: file for its output.
        environment: variables in addition to those of this process.
        folder: working directory.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        # SIGTERM, as from timeout(1), must not leave frozen servers behind.
        signal.signal(signal.SIGTERM, _exit_on_signal)
        self.log = log
        self._mark = uuid.uuid4().hex
        with log.open("wb") as out:
            self._main = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **(environment or {}), MARK: self._mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The command's process."""
        return self._main.pid

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self._main.poll() is not None

    def wait(self) -> int:
        """Waits for the end of the command; its exit code."""
        return self._main.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def all(self) -> list[psutil.Process]:
        """All running processes with the mark."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def cpu_s(self) -> float:
        """User and system time of all processes so far."""
        total = 0.0
        for process in self.all():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def pss_of_each(self) -> dict[str, int]:
        """Proportional set size by the processes' names: pages are divided among the processes that share them."""
        found: Counter[str] = Counter()
        for process in self.all():
            with suppress(psutil.Error):
                found[process.name()] += process.memory_full_info().pss
        return dict(found)

    def pss_bytes(self) -> int:
        """Proportional set size of all processes."""
        return sum(self.pss_of_each().values())

    def freeze(self) -> None:
        """Suspends all processes, so that they use no CPU time.

        Waits until they are idle, for a second at most: a server continues requests whose callers have disconnected,
        and would otherwise finish them during its next measurement.
        """
        deadline = time.monotonic() + REST_S
        before_s = self.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(REST_S / 10)
            after_s = self.cpu_s()
            if after_s - before_s < REST_S / 100:
                break
            before_s = after_s
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resumes all processes."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        """Resumes all processes in the context, and freezes them again afterwards."""
        self.thaw()
        try:
            yield
        finally:
            self.freeze()

    def _signal(self, number: int) -> None:
        for process in self.all():
            with suppress(psutil.Error):
                process.send_signal(number)

    def end(self) -> None:
        """Stops the command, and kills processes that remain."""
        self.thaw()
        if not self.ended:
            self._main.terminate()
        deadline = time.monotonic() + END_S
        while not (self.ended and not self.all()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        self._main.wait()
