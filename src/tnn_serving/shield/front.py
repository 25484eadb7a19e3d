"""Runs Envoy in front of the supervised server: starts it, watches it, restarts it, and ends it with the server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client.metrics_core import Metric

from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.private_folder import PrivateFolder
from tnn_serving.shield.configuration import CallerLimits, Configuration, HostPort, Tls, probe_socket
from tnn_serving.shield.envoy import ask, find_envoy, statistics
from tnn_serving.shield.metrics import STATISTICS, metrics
from tnn_serving.triton.access import restrictions
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.flags import is_true
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.process import POLL_S, ChildProcess
from tnn_serving.triton.supervise import HEALTHY_AFTER_S

PROTOCOLS = ("http", "grpc", "metrics")
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


def behind(launch: Launch) -> Launch:
    """The server of a launch on free ports of this machine's loopback interface, for an Envoy at its addresses.

    Raises:
        ConfigError: the server is to have TLS of its own.
    """
    if is_true(launch.flag("grpc-use-ssl", "false")):
        raise ConfigError(
            "tritonserver has no TLS of its own behind the shield",
            found="--grpc-use-ssl",
            hint="use --tls-cert and --tls-key, which hold for HTTP and gRPC; or --shield none",
        )
    ports = dict(zip(PROTOCOLS, free_ports(len(PROTOCOLS)), strict=True))
    flags = [
        flag
        for protocol, port in ports.items()
        for flag in (f"--{protocol}-address=127.0.0.1", f"--{protocol}-port={port}")
    ]
    return replace(launch, command=(*launch.command, *flags))


@dataclass(slots=True)
class Shield:
    """Envoy in front of one server.

    Args:
        public: the launch with the addresses that callers use.
        server: the launch that is started, from :func:`behind`.
        access_log: file for a line per request.
    """

    public: Launch
    server: Launch
    limits: CallerLimits = field(default_factory=CallerLimits)
    tls: Tls | None = None
    access_log: Path | None = None
    _private: PrivateFolder | None = None
    _configuration: Configuration | None = None
    _on_line: Callable[[str], None] = print
    _on_warning: Callable[[str], None] = print
    _process: ChildProcess | None = None
    _thread: threading.Thread | None = None
    _closed: threading.Event = field(default_factory=threading.Event)
    _answered: threading.Event = field(default_factory=threading.Event)
    _unanswered: int = 0
    _restarts: int = 0

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
        self._configuration = configuration = self._configured()
        text = configuration.text()
        file = configuration.folder / "envoy.yaml"
        command = [str(program), "--config-path", str(file), "--concurrency", str(workers()), "--disable-hot-restart"]
        command += ["--file-flush-interval-msec", "1000"]
        # Lines look like those of tritonserver's log: the first letter is the level.
        command += ["--log-level", "warning", "--log-format", "%L%m%d %T.%f envoy] %v"]
        self._thread = threading.Thread(target=self._keep, args=(command, file, text), name="shield", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._answered.wait(POLL_S):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                log = list(self._process.log) if self._process is not None else []
                self.close()
                reason = log[-1].rpartition("envoy] ")[2] if log else "no answer"
                raise ServerError("the shield (Envoy) did not start", found=reason)

    def problem(self) -> str:
        """Why callers are not served; empty if they are."""
        if self.pid is None:
            return "the shield (Envoy) has ended and is restarted"
        if not self._answered.is_set():
            return "the shield (Envoy) is starting"
        if self._unanswered >= UNANSWERED_PROBES:
            return f"the shield (Envoy) has not answered for {self._unanswered * PROBE_S:.0f} s"
        return ""

    def metrics(self) -> Iterable[Metric]:
        """Envoy's metrics under our names; without those of Envoy if it does not answer."""
        values: dict[str, int] = {}
        if self._configuration is not None:
            with suppress(OSError):
                values = statistics(self._configuration.admin_socket, STATISTICS)
        return metrics(values, up=not self.problem(), restarts=self._restarts)

    def drain(self, timeout_s: float, stop_now: Callable[[], bool]) -> None:
        """Accepts no more connections, and waits until all requests are answered.

        Args:
            timeout_s: the longest time that this takes.
            stop_now: ends it at once when it is true.
        """
        if self._configuration is None:
            return
        deadline, admin = time.monotonic() + timeout_s, self._configuration.admin_socket
        with suppress(OSError):
            ask(admin, "/drain_listeners", post=True)
            while time.monotonic() < deadline and not stop_now():
                active = statistics(admin, r"^http\.(http|grpc)\.downstream_rq_active$")
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

    def _configured(self) -> Configuration:
        self._private = PrivateFolder()
        listeners: dict[str, HostPort] = {}
        servers: dict[str, list[HostPort]] = {}
        for protocol in PROTOCOLS:
            address, target = self.public.endpoint(protocol), self.server.endpoint(protocol)
            if address is not None and target is not None:
                listeners[protocol], servers[protocol] = address, [target]
        restricted = {protocol: restrictions(self.server, protocol) for protocol in ("http", "grpc")}
        return Configuration(listeners, servers, self._private.path, self.limits, self.tls, restricted, self.access_log)

    # ---- the life of Envoy ----

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
            if not self._restarts and not self._answered.is_set():  # the configuration is wrong
                return
            failures = 1 if time.monotonic() - started_s > HEALTHY_AFTER_S else failures + 1
            delay_s = min(0.1 * 2.0 ** min(failures - 1, 30), LONGEST_DELAY_S)
            self._restarts += 1
            self._on_warning(f"{what}; the shield is restarted in {delay_s:.1f} s")
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


def workers() -> int:
    """Threads of Envoy: a quarter of the cores, since the others compute."""
    return max(1, len(os.sched_getaffinity(0)) // 4)
