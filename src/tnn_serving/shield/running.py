"""The life of an Envoy: it is started, watched, restarted, and ended."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tnn_serving.errors import ServerError
from tnn_serving.private_folder import PrivateFolder
from tnn_serving.shield.configuration import Configuration, probe_socket
from tnn_serving.shield.envoy import ask, find_envoy, statistics
from tnn_serving.triton.process import POLL_S, ChildProcess
from tnn_serving.triton.supervise import HEALTHY_AFTER_S

START_S = 30.0
PROBE_S = 1.0
"""Interval of probes, and the longest time that an answer to one may take."""
UNANSWERED_PROBES = 3
"""After so many successive ones, Envoy counts as not answering."""
HANGING_PROBES = 60
"""After so many, Envoy is restarted."""
LONGEST_DELAY_S = 30.0
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TZ")
"""Variables of the environment that Envoy gets: none with a secret."""


class RunningEnvoy(ABC):
    """An Envoy that is restarted when it ends or hangs.

    Attributes:
        title: what it is, in messages.
        workers: its threads.
        restarts: how often it has been restarted.
    """

    title: str
    workers: int

    def __init__(self) -> None:
        self.restarts = 0
        self._private: PrivateFolder | None = None
        self._admin: Path | None = None
        self._on_line: Callable[[str], None] = print
        self._on_warning: Callable[[str], None] = print
        self._process: ChildProcess | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._answered = threading.Event()
        self._unanswered = 0

    @abstractmethod
    def configuration(self, folder: Path) -> Configuration:
        """What it is started with; its sockets are in the folder."""

    @property
    def pid(self) -> int | None:
        """The process id of the running Envoy."""
        return self._process.pid if self._process is not None and self._process.running else None

    def start(self, on_line: Callable[[str], None], on_warning: Callable[[str], None]) -> None:
        """Starts Envoy and waits until it answers; from then on it is restarted when it ends or hangs.

        Args:
            on_line: called with each line of Envoy's log, in another thread.
            on_warning: called when it is restarted, in another thread.

        Raises:
            ServerError: Envoy is not installed, or refuses its configuration.
        """
        self._on_line, self._on_warning = on_line, on_warning
        program = find_envoy()
        self._private = PrivateFolder()
        configuration = self.configuration(self._private.path)
        self._admin = configuration.admin_socket
        text = configuration.text()
        file = configuration.folder / "envoy.yaml"
        command = [str(program), "--config-path", str(file), "--concurrency", str(self.workers)]
        command += ["--disable-hot-restart", "--file-flush-interval-msec", "1000"]
        # Lines look like those of tritonserver's log: the first letter is the level.
        command += ["--log-level", "warning", "--log-format", "%L%m%d %T.%f envoy] %v"]
        self._thread = threading.Thread(target=self._keep, args=(command, file, text), name=self.title, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._answered.wait(POLL_S):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                log = list(self._process.log) if self._process is not None else []
                self.close()
                reason = log[-1].rpartition("envoy] ")[2] if log else "no answer"
                raise ServerError(f"{self.title} (Envoy) did not start", found=reason)

    def problem(self) -> str:
        """Why callers are not served; empty if they are."""
        if self.pid is None:
            return f"{self.title} (Envoy) has ended and is restarted"
        if not self._answered.is_set():
            return f"{self.title} (Envoy) is starting"
        if self._unanswered >= UNANSWERED_PROBES:
            return f"{self.title} (Envoy) has not answered for {self._unanswered * PROBE_S:.0f} s"
        return ""

    def statistics(self, pattern: str) -> dict[str, int]:
        """Envoy's counters and gauges whose names match a regular expression; none if it does not answer."""
        if self._admin is not None:
            with suppress(OSError):
                return statistics(self._admin, pattern)
        return {}

    def leave(self) -> None:
        """Asks callers with each answer to connect again, elsewhere if they can. Everything is still answered."""
        if self._admin is not None:
            with suppress(OSError):
                ask(self._admin, "/healthcheck/fail", post=True)

    def drain(self, timeout_s: float, stop_now: Callable[[], bool]) -> None:
        """Accepts no more connections, and waits until all requests are answered.

        Args:
            timeout_s: the longest time that this takes.
            stop_now: ends it at once when it is true.
        """
        if self._admin is None:
            return
        deadline = time.monotonic() + timeout_s
        with suppress(OSError):
            ask(self._admin, "/drain_listeners", post=True)
            while time.monotonic() < deadline and not stop_now():
                active = statistics(self._admin, r"^http\.(http|grpc)\.downstream_rq_active$")
                if not any(active.values()):
                    break
                time.sleep(POLL_S / 2)

    def close(self) -> None:
        """Ends Envoy, and removes its folder. Connections that are left are closed."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._private is not None:
            self._private.close()

    def _keep(self, command: list[str], file: Path, text: str) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        failures = 0
        while not self._closed.is_set():
            started_s = time.monotonic()
            self._answered.clear()
            self._unanswered = 0
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")
            process = ChildProcess(command, environment, self._on_line, "Envoy")
            self._process = process
            what = self._watch(process, file)
            process.kill()
            if self._closed.is_set():
                return
            if not self.restarts and not self._answered.is_set():  # the configuration is wrong
                return
            failures = 1 if time.monotonic() - started_s > HEALTHY_AFTER_S else failures + 1
            delay_s = min(0.1 * 2.0 ** min(failures - 1, 30), LONGEST_DELAY_S)
            self.restarts += 1
            self._on_warning(f"{what}; {self.title} is restarted in {delay_s:.1f} s")
            self._closed.wait(delay_s)

    def _watch(self, process: ChildProcess, file: Path) -> str:
        """Probes Envoy until it ends, hangs, or is to end; returns what happened. Removes its file of configuration."""
        next_probe_s = 0.0
        probe = probe_socket(file.parent)
        while process.running and not self._closed.wait(0.02 if not self._answered.is_set() else POLL_S):
            if time.monotonic() < next_probe_s:
                continue
            try:
                ask(probe, "/", timeout_s=PROBE_S)
            except OSError:
                self._unanswered += self._answered.is_set()
                if self._unanswered >= HANGING_PROBES:
                    return f"Envoy has not answered for {self._unanswered * PROBE_S:.0f} s"
            else:
                self._answered.set()
                self._unanswered = 0
                file.unlink(missing_ok=True)  # it has been read, and the token in it must not outlive this process
            if self._answered.is_set():
                next_probe_s = time.monotonic() + PROBE_S
        return "" if self._closed.is_set() else process.describe_exit(process.wait())
