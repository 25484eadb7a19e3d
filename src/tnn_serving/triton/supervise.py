"""Runs tritonserver as a child process: waits until it is ready, restarts it when it dies, and stops it.

tritonserver needs a supervisor for four reasons. A crash in an engine ends the whole process. It reports models as
ready even if an execution hangs. After SIGTERM it does not end while a gRPC stream is open, and exits with code 1 if an
HTTP client keeps an idle connection. Which models are served, and why others are not, is only in its log and its
repository index.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from tnn_serving.errors import ServerError
from tnn_serving.repository import Skipped
from tnn_serving.triton.access import http_headers
from tnn_serving.triton.backend.errors import REPOSITORIES
from tnn_serving.triton.front import Front
from tnn_serving.triton.health import Fault, HealthLimits
from tnn_serving.triton.health_port import HealthPort
from tnn_serving.triton.index import Endpoint, ServedModel, list_models, request_load
from tnn_serving.triton.launch import Launch, check_ports
from tnn_serving.triton.log import failure_reasons, is_out_of_files, poll_failure
from tnn_serving.triton.monitor import Monitor
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.probe import answers
from tnn_serving.triton.process import POLL_S, Orphans, ServerProcess, allow_descriptors

SYNC_S = 0.5
"""Interval at which overlays are synchronised if models may be added and removed."""
RELOAD_TIMEOUT_S = 600.0
"""Timeout for loading one model again."""
HEALTHY_AFTER_S = 60.0
"""After a server has run this long, its next failure starts a new series."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CLEAN_CODES = (0, 1, -signal.SIGTERM, -signal.SIGKILL)
"""Exit codes of tritonserver after a requested stop: 1 if its exit timeout ran out, for which an idle connection is
enough; SIGTERM if it was still starting; SIGKILL if it did not end in time, which is reported."""

_CRASHED_AT_END = (-signal.SIGSEGV, -signal.SIGABRT)
"""tritonserver's HTTP front end sometimes crashes if connections are busy when its exit timeout runs out. As the stop
was requested, this counts as success; it is reported."""


def _ignore(*_: Any) -> None:
    pass


@dataclass(slots=True)
class Callbacks:
    """Callbacks of a supervisor, called in the thread that runs it; ``on_log`` is called in another thread.

    Attributes:
        on_log: a line of tritonserver's output.
        on_waiting: seconds since the start; called several times per second until the server answers.
        on_ready: the models, after each start and restart.
        on_restart: what happened, and the seconds until the next start.
        on_stop: the server is being stopped; the longest time that may take, in seconds.
        on_warning: a problem that does not prevent the server from running.
    """

    on_log: Callable[[str], None] = _ignore
    on_waiting: Callable[[float], None] = _ignore
    on_ready: Callable[[Sequence[ServedModel]], None] = _ignore
    on_restart: Callable[[str, float], None] = _ignore
    on_stop: Callable[[float], None] = _ignore
    on_warning: Callable[[str], None] = _ignore


@dataclass(slots=True)
class Restarts:
    """When to restart a server that ended unexpectedly.

    Attributes:
        limit: maximum number of successive restarts; 0 for none.
        first_delay_s, longest_delay_s: the delay doubles from the first to the longest.
    """

    limit: int = 10
    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0

    def delay_s(self, attempt: int) -> float:
        """The delay before a restart; ``attempt`` counts the restarts of a series from 1."""
        doublings = min(attempt - 1, 30)
        return min(self.first_delay_s * 2.0**doublings, self.longest_delay_s)


@dataclass(slots=True)
class Supervisor:
    """Keeps one tritonserver running. :meth:`run` blocks; :meth:`stop` ends it from another thread.

    Args:
        launch: the server's command line and environment.
        overlay: repositories to synchronise while the server runs.
        limits: how long executions and answers may take.
        health_address: address of the health endpoint; None for no endpoint.
        token: required for the details of the health endpoint.
        reload: in explicit mode, load models again after a restart that were loaded by request.
        front: runs in front of the server.
        drain_s: how long the server still answers after SIGTERM, while the health endpoint says that it is not ready.
    """

    launch: Launch
    overlay: Overlay | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    restarts: Restarts = field(default_factory=Restarts)
    limits: HealthLimits = field(default_factory=HealthLimits)
    health_address: tuple[str, int] | None = None
    token: str | None = None
    reload: bool = True
    front: Front | None = None
    drain_s: float = 0.0
    monitor: Monitor = field(init=False)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stop_requests: int = 0
    _drains: bool = False
    _process: ServerProcess | None = None
    _next_sync: float = 0.0
    _out_of_files: bool = False
    _orphans: Orphans = field(default_factory=Orphans)
    _known_skips: set[Skipped] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.overlay is not None:
            paths = {REPOSITORIES: json.dumps(self.overlay.folders)}
            self.launch = replace(self.launch, environment={**self.launch.environment, **paths})
        self.monitor = Monitor(self.launch, self.limits, self._with_reasons, self._front_problem)

    def run(self) -> int:
        """Serves until SIGTERM, SIGINT, SIGHUP or :meth:`stop`; the second one kills the server at once.

        Returns:
            0 after a requested stop; 1 if the server died too often.

        Raises:
            ServerError: a port is in use, the server did not start, or it has no model to serve.
        """
        allow_descriptors()
        check_ports(self.front.public if self.front is not None else self.launch, self.health_address)
        with self._signals(), self._monitoring(), self._fronting():
            try:
                return self._keep_running()
            finally:
                if self._process is not None:  # no server is left running
                    self._process.kill()

    def stop(self, *, drain: bool = False) -> None:
        """Stops the server; the second call kills it.

        Args:
            drain: answer for :attr:`drain_s` seconds first.
        """
        self._drains = drain
        self._stop_requests += 1
        self._wake.set()

    @property
    def pid(self) -> int | None:
        """The process id of the running tritonserver."""
        return self._process.pid if self._process is not None and self._process.running else None

    # ---- the life of the servers ----

    def _keep_running(self) -> int:
        was_ready = False
        failures = 0
        while not self._stop_requests:
            started = time.monotonic()
            fault: Fault | None = None
            process = self._spawn()
            if self._wait_until_ready(process):
                again, was_ready = was_ready, True
                self.monitor.running()
                fault = self._watch(process, self._load_again(process)) if again else None
                if fault is None and process.running and not self._stop_requests:
                    models = self._models(first=not again)
                    self.callbacks.on_ready(models)
                    fault = self._watch(process, threading.Event())
            if self._stop_requests:
                return self._stopped(process)
            fault = fault or _failure(process)
            if not was_ready:
                raise ServerError(f"tritonserver did not start: {self._reason() or fault.what}", hint=self._log_hint())
            if fault.cause != "engine":  # the monitor limits these; they must not end the server for other models
                failures = 1 if time.monotonic() - started > HEALTHY_AFTER_S else failures + 1
            if failures > self.restarts.limit:
                what = f"{fault.what}; it has died {failures} times in a row and is not restarted"
                self.callbacks.on_warning(what)
                return 1
            delay_s = self.restarts.delay_s(max(failures, 1))
            self.monitor.restarting(fault, delay_s)
            self.callbacks.on_restart(fault.what, delay_s)
            self._wake.wait(delay_s)
        return 0

    def _spawn(self) -> ServerProcess:
        self._sync()
        self._process = ServerProcess(self.launch, self._on_line)
        self.monitor.started(self._process.pid)
        return self._process

    def _on_line(self, line: str) -> None:
        if is_out_of_files(line) and not self._out_of_files:
            self._out_of_files = True
            self.callbacks.on_warning(
                "tritonserver has no file descriptor left and takes no further connections; raise its limit (ulimit -n)"
            )
        self.callbacks.on_log(self._with_source_paths(line))

    def _wait_until_ready(self, process: ServerProcess) -> bool:
        """Waits for the first answer; False if the server ended or a stop was requested before. Triton listens once it
        has tried to load all models."""
        started = time.monotonic()
        while process.running and not self._stop_requests:
            if self._answers():
                return True
            self.callbacks.on_waiting(time.monotonic() - started)
            self._wake.wait(POLL_S)
        return False

    def _watch(self, process: ServerProcess, until: threading.Event) -> Fault | None:
        """Waits until the server ends, a stop is requested, ``until`` is set, or a fault occurs, which is returned."""
        while process.running and not self._stop_requests and not until.is_set():
            self._orphans.reap()
            if self.launch.control_mode != "none":
                self._follow()
            fault = self.monitor.fault()
            if fault is not None and (fault.cause != "engine" or self.restarts.limit):
                # At once: during a graceful stop it would refuse more requests than are running.
                self.callbacks.on_warning(f"{fault.what}; it is killed after the stacks of its threads are logged")
                process.dump_stacks()
                process.kill()
                return fault
            self._wake.wait(POLL_S)
        return None

    def _load_again(self, process: ServerProcess) -> threading.Event:
        """Loads the models again that were loaded by request before the restart. Runs in a thread, so that a stop does
        not wait for it; the event is set at the end."""
        done = threading.Event()
        names = self.monitor.lost_models() if self.launch.control_mode == "explicit" else []
        url = self.launch.url
        if url is None or not self.reload:
            for name in names:
                self.monitor.forget(name)
            done.set()
            return done
        server = self._endpoint(url)

        def load() -> None:
            for name in names:
                if not process.running:
                    break
                try:
                    request_load(server, name, timeout_s=RELOAD_TIMEOUT_S)
                except urllib.error.HTTPError as error:
                    reason = self._with_source_paths(error.read().decode("utf-8", "replace"))
                    self.callbacks.on_warning(f"model {name} could not be loaded again: {reason}")
                except OSError as error:
                    self.callbacks.on_warning(f"model {name} could not be loaded again: {error}")

            done.set()

        threading.Thread(target=load, name="load again", daemon=True).start()
        return done

    def _follow(self) -> None:
        """Applies changes of the repository, at once if there are any, so that a load request after them sees them."""
        if self.overlay is not None and (time.monotonic() >= self._next_sync or self.overlay.changed()):
            self._sync()

    def _sync(self) -> None:
        if self.overlay is None:
            return
        try:
            self.overlay.sync(withdraws=self.launch.control_mode == "explicit")
        except OSError as error:
            self.callbacks.on_warning(f"changes of the repository cannot be read: {error}")
        skipped = {*self.overlay.skipped, *self.overlay.refused}
        for item in skipped - self._known_skips:
            self.callbacks.on_warning(f"{item.folder} is not served: {item.reason}")
        self._known_skips = skipped
        self._next_sync = time.monotonic() + SYNC_S

    def _stopped(self, process: ServerProcess) -> int:
        """Stops the server on request. Returns 0, or 1 if it failed."""
        drain_s = self.drain_s if self._drains and self.monitor.answered() else 0.0
        self.monitor.stopping()
        self.callbacks.on_stop(drain_s + process.longest_end_s)
        if drain_s:
            self._answer_on(process, drain_s)
        started = time.monotonic()
        if self.front is not None:  # requests that it holds are answered before the server stops
            self.front.drain(self.launch.exit_timeout_s, lambda: self._stop_requests > 1 or not process.running)
            self.front.close()
        if not process.end(lambda: self._stop_requests > 1, self._wake, time.monotonic() - started):
            self.callbacks.on_warning("tritonserver did not end in time and is killed")
        code = process.wait()
        if code in _CRASHED_AT_END:
            self.callbacks.on_warning(
                f"{process.describe_exit(code)} during the stop; it had answered or dropped every request"
            )
            return 0
        return 0 if code in _CLEAN_CODES else 1

    def _answer_on(self, process: ServerProcess, seconds: float) -> None:
        """Answers until balancers have noticed that this server is not ready."""
        if self.front is not None:
            self.front.leave()
        deadline = time.monotonic() + seconds
        while process.running and self._stop_requests < 2 and (left_s := deadline - time.monotonic()) > 0:
            self._wake.clear()
            self._wake.wait(min(left_s, POLL_S))

    @contextmanager
    def _monitoring(self) -> Iterator[None]:
        """Runs the monitor, and the health endpoint if there is one."""
        port = None
        if self.health_address is not None:
            more = self.front.metrics if self.front is not None else tuple
            port = HealthPort(*self.health_address, self.monitor, self.token, more)
        self.monitor.start()
        try:
            yield
        finally:
            self.monitor.close()
            if port is not None:
                port.close()

    @contextmanager
    def _fronting(self) -> Iterator[None]:
        """Runs what is in front of the server, if there is anything."""
        if self.front is None:
            yield
            return
        try:
            self.front.start(self.callbacks.on_log, self.callbacks.on_warning)
            yield
        finally:
            self.front.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # Python has no signals elsewhere
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            # Ctrl-C and the end of a terminal come from a person, who waits.
            self.stop(drain=number == signal.SIGTERM)

        before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- the state of the server ----

    def _front_problem(self) -> str:
        return self.front.problem() if self.front is not None else ""

    def _answers(self) -> bool:
        url = self.launch.url
        if url is None:  # without HTTP, the log has to show that gRPC has started
            return any("Started GRPCInferenceService" in line for line in self._log())
        return answers(self._endpoint(url))

    def _models(self, *, first: bool) -> list[ServedModel]:
        """The models. Raises ServerError if there is none to serve at the first start."""
        if self.launch.url is None:
            return []
        try:
            models = self._with_reasons(list_models(self._endpoint(self.launch.url)))
        except OSError as error:
            self.callbacks.on_warning(f"the server runs, but its models cannot be listed: {error}")
            return []
        # Without folders that have no version, and in explicit mode without those that were not requested.
        none = {item.folder.name for item in self.overlay.skipped} if self.overlay is not None else set()
        models = [model for model in models if model.state and (model.version or model.name not in none)]
        if first and self.launch.control_mode == "none" and not any(model.ready for model in models):
            raise self._no_model(models)
        return models

    def _with_reasons(self, models: Sequence[ServedModel]) -> list[ServedModel]:
        """The models with reasons that only the log has (a config.pbtxt that cannot be read), those that the server is
        not shown, and the user's paths."""
        log = self._log()
        explained = []
        for model in models:
            reason = model.reason
            if not model.state and self.launch.control_mode != "explicit":
                reason = poll_failure(log, model.name) or reason
            state = model.state or ("UNAVAILABLE" if reason else "")
            explained.append(replace(model, reason=self._with_source_paths(reason), state=state))
        if self.overlay is not None and self.launch.control_mode != "explicit":
            known = {model.name for model in models}
            refused = {item.folder.name: item.reason for item in self.overlay.refused}
            explained += [ServedModel(name, "", "UNAVAILABLE", refused[name]) for name in refused if name not in known]
        return explained

    def _endpoint(self, url: str) -> Endpoint:
        return Endpoint(url, http_headers(self.launch))

    def _log(self) -> list[str]:
        return list(self._process.log) if self._process is not None else []

    def _with_source_paths(self, text: str) -> str:
        """``text`` with the user's paths instead of those of overlays."""
        return text if self.overlay is None else self.overlay.with_source_paths(text)

    def _no_model(self, models: Sequence[ServedModel]) -> ServerError:
        if models:
            reasons = "; ".join(f"`{model.name}`: {model.reason or model.state}" for model in models)
            return ServerError(f"no model could be loaded: {reasons}")
        reason = self._reason()
        skipped: Sequence[Skipped] = self.overlay.skipped if self.overlay is not None else ()
        found = ", ".join(f"{item.folder.name} ({item.reason})" for item in skipped) or "no model folder"
        return ServerError(
            f"there is no model to serve: {reason}" if reason else "there is no model to serve",
            expected="folders like NAME/1/proto.tnnproto with NAME/1/model.tnnmodel",
            found=found,
        )

    def _reason(self) -> str:
        """The first errors in the log since the last start."""
        return "; ".join(failure_reasons([self._with_source_paths(line) for line in self._log()])[:3])

    def _log_hint(self) -> str | None:
        return "see the file given with --log-file" if self.launch.flag("log-file") else None


def _failure(process: ServerProcess) -> Fault:
    """The fault of a server that ended unexpectedly."""
    code = process.wait()
    return Fault("crash" if code < 0 else "exit", process.describe_exit(code))
