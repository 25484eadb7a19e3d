"""Runs tritonserver as a child process: waits until it serves, restarts it when it dies, and ends it for good.

tritonserver needs a parent for four reasons. A crash in an engine ends the whole process. It calls its models ready
whatever hangs inside. After SIGTERM it stays for ever when a gRPC stream is open, and ends with code 1 when an HTTP
client keeps an idle connection. And what models are served, or why not, is only in its log and its repository index.
"""

from __future__ import annotations

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
from tnn_serving.triton.health import Fault, Limits
from tnn_serving.triton.health_port import HealthPort
from tnn_serving.triton.index import Endpoint, ServedModel, list_models, load_model
from tnn_serving.triton.launch import Launch, check_ports
from tnn_serving.triton.log import failure_reasons, poll_failure
from tnn_serving.triton.monitor import Monitor
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.probe import answers
from tnn_serving.triton.process import POLL_S, ServerProcess, ending

SYNC_S = 0.5
"""How often an overlay follows its repository when models may come and go."""
LOAD_S = 600.0
"""How long one model may take to be loaded again."""
HEALTHY_AFTER_S = 60.0
"""A server that ran this long has started well: its next failure is the first of a new series."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CLEAN_CODES = (0, 1, -signal.SIGTERM, -signal.SIGKILL)
"""How tritonserver may end when it was asked to: 1 when its exit timeout ran out, for which an idle connection
suffices; by SIGTERM when it was still starting; by SIGKILL when it did not end in time, which is reported."""

_CRASHED_AT_END = (-signal.SIGSEGV, -signal.SIGABRT)
"""Its HTTP front end sometimes crashes when connections are still busy as its exit timeout runs out. The stop was asked
for and the server is gone, which is what matters to whoever waits for us; it is reported."""


def _nothing(*_: Any) -> None:
    pass


@dataclass(slots=True)
class Callbacks:
    """What a supervisor reports; each is called in the thread that runs it, ``on_log`` in another one.

    Attributes:
        on_log: a line of tritonserver's output.
        on_waiting: seconds since the start, about twice a second until the server answers.
        on_ready: the models, after each (re)start.
        on_restart: what happened, and the seconds until the next start.
        on_stop: the server has been asked to stop; the most seconds that may take.
        on_warning: something that does not keep the server from running.
    """

    on_log: Callable[[str], None] = _nothing
    on_waiting: Callable[[float], None] = _nothing
    on_ready: Callable[[Sequence[ServedModel]], None] = _nothing
    on_restart: Callable[[str, float], None] = _nothing
    on_stop: Callable[[float], None] = _nothing
    on_warning: Callable[[str], None] = _nothing


@dataclass(slots=True)
class Restarts:
    """When to start again a server that ended by itself.

    Attributes:
        limit: how many times in a row; 0 for never.
        first_delay_s, longest_delay_s: the delay doubles from one to the other.
    """

    limit: int = 10
    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0

    def delay_s(self, attempt: int) -> float:
        """The delay before the ``attempt``-th restart of a series, from 1."""
        doublings = min(attempt - 1, 30)
        return min(self.first_delay_s * 2.0**doublings, self.longest_delay_s)


@dataclass(slots=True)
class Supervisor:
    """Keeps one tritonserver running. :meth:`run` does everything; :meth:`stop` ends it from another thread.

    Args:
        launch: what to start.
        overlay: repositories to keep in step while the server runs.
        limits: how long executions and answers may take.
        health_address: where to tell how the server is, if anywhere.
        token: what the details of that need.
        reload: in explicit mode, load again after a restart what was loaded by request.
    """

    launch: Launch
    overlay: Overlay | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    restarts: Restarts = field(default_factory=Restarts)
    limits: Limits = field(default_factory=Limits)
    health_address: tuple[str, int] | None = None
    token: str | None = None
    reload: bool = True
    monitor: Monitor = field(init=False)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stops_asked: int = 0
    _process: ServerProcess | None = None
    _next_sync: float = 0.0

    def __post_init__(self) -> None:
        self.monitor = Monitor(self.launch, self.limits, self._explained)

    def run(self) -> int:
        """Serves until asked to stop, by SIGTERM, SIGINT, SIGHUP or :meth:`stop`; a second time kills at once.

        Returns:
            0 after a stop that was asked for; 1 when the server died too often.

        Raises:
            ServerError: a port is taken, the server never came up, or it has not one model to serve.
        """
        check_ports(self.launch, self.health_address)
        with self._signals(), self._told():
            try:
                return self._keep_running()
            finally:
                if self._process is not None:  # whatever way this ends, no server is left
                    self._process.kill()

    def stop(self) -> None:
        """Asks the server to stop; at the second call it is killed."""
        self._stops_asked += 1
        self._wake.set()

    @property
    def pid(self) -> int | None:
        """The process id of the running tritonserver."""
        return self._process.pid if self._process is not None and self._process.running else None

    # ---- the life of the servers ----

    def _keep_running(self) -> int:
        was_ready = False
        failures = 0
        while not self._stops_asked:
            started = time.monotonic()
            fault: Fault | None = None
            process = self._spawn()
            if self._wait_until_ready(process):
                again, was_ready = was_ready, True
                self.monitor.running()
                fault = self._watch(process, self._load_again(process)) if again else None
                if fault is None and process.running and not self._stops_asked:
                    models = self._models(first=not again)
                    self.callbacks.on_ready(models)
                    fault = self._watch(process, threading.Event())
            if self._stops_asked:
                return self._stopped(process)
            fault = fault or _failure(process.wait())
            if not was_ready:
                raise ServerError(f"tritonserver did not start: {self._reason() or fault.what}", hint=self._log_hint())
            if fault.cause != "engine":  # such a one has its own delays, and is no reason to take the others down
                failures = 1 if time.monotonic() - started > HEALTHY_AFTER_S else failures + 1
            if failures > self.restarts.limit:
                what = f"{fault.what}; it has died {failures} times in a row and is not started again"
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
        self.callbacks.on_log(self._in_source(line))

    def _wait_until_ready(self, process: ServerProcess) -> bool:
        """False when the server ended or a stop was asked for first. Triton listens when all models have been tried."""
        started = time.monotonic()
        while process.running and not self._stops_asked:
            if self._answers():
                return True
            self.callbacks.on_waiting(time.monotonic() - started)
            self._wake.wait(POLL_S)
        return False

    def _watch(self, process: ServerProcess, until: threading.Event) -> Fault | None:
        """Until the server ends, a stop is asked for, ``until`` is set, or it has to be ended; then, why."""
        while process.running and not self._stops_asked and not until.is_set():
            if self.launch.control_mode != "none":
                self._follow()
            fault = self.monitor.fault()
            if fault is not None and (fault.cause != "engine" or self.restarts.limit):
                # At once: while it drained, it would refuse more requests than it has under way.
                self.callbacks.on_warning(f"{fault.what}; what its threads do follows in the log, then it is killed")
                process.dump_stacks()
                process.kill()
                return fault
            self._wake.wait(POLL_S)
        return None

    def _load_again(self, process: ServerProcess) -> threading.Event:
        """Has the server load what it had loaded by request before it was restarted; the event is set when that is
        done. In a thread, so that a stop need not wait for it."""
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
                    load_model(server, name, timeout_s=LOAD_S)
                except urllib.error.HTTPError as error:
                    reason = self._in_source(error.read().decode("utf-8", "replace"))
                    self.callbacks.on_warning(f"model {name} could not be loaded again: {reason}")
                except OSError as error:
                    self.callbacks.on_warning(f"model {name} could not be loaded again: {error}")

            done.set()

        threading.Thread(target=load, name="load again", daemon=True).start()
        return done

    def _follow(self) -> None:
        """Takes over changes of the repository: a load that is asked for right after them should see them."""
        if self.overlay is not None and (time.monotonic() >= self._next_sync or self.overlay.changed()):
            self._sync()

    def _sync(self) -> None:
        if self.overlay is None:
            return
        try:
            self.overlay.sync()
        except OSError as error:
            self.callbacks.on_warning(f"cannot follow the repository: {error}")
        self._next_sync = time.monotonic() + SYNC_S

    def _stopped(self, process: ServerProcess) -> int:
        """Ends the server as somebody has asked, and says how that went: 0 or 1."""
        self.monitor.stopping()
        self.callbacks.on_stop(process.longest_end_s)
        if not process.end(lambda: self._stops_asked > 1, self._wake):
            self.callbacks.on_warning("tritonserver did not end in time and is killed")
        code = process.wait()
        if code in _CRASHED_AT_END:
            self.callbacks.on_warning(f"{ending(code)} while it was stopping; it had answered or dropped every request")
            return 0
        return 0 if code in _CLEAN_CODES else 1

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Watches the server's health, and tells it where that was wished."""
        port = HealthPort(*self.health_address, self.monitor, self.token) if self.health_address else None
        self.monitor.start()
        try:
            yield
        finally:
            self.monitor.close()
            if port is not None:
                port.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # Python has no signals elsewhere
            yield
            return

        def asked(number: int, frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, asked) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- what the server says ----

    def _answers(self) -> bool:
        url = self.launch.url
        if url is None:  # without HTTP, Triton's own word that gRPC has started must do
            return any("Started GRPCInferenceService" in line for line in self._log())
        return answers(self._endpoint(url))

    def _models(self, *, first: bool) -> list[ServedModel]:
        """The models, on the first start with the demand that there be one to serve."""
        if self.launch.url is None:
            return []
        try:
            models = self._explained(list_models(self._endpoint(self.launch.url)))
        except OSError as error:
            self.callbacks.on_warning(f"the server runs, but won't tell its models: {error}")
            return []
        # Folders without a version, and in explicit mode those that nobody has asked to load.
        none = {item.folder.name for item in self.overlay.skipped} if self.overlay is not None else set()
        models = [model for model in models if model.state and (model.version or model.name not in none)]
        if first and self.launch.control_mode == "none" and not any(model.ready for model in models):
            raise self._no_model(models)
        return models

    def _explained(self, models: Sequence[ServedModel]) -> list[ServedModel]:
        """The models with the reason that only the log tells (its config.pbtxt can't be read), and the user's paths."""
        log = self._log()
        explained = []
        for model in models:
            reason = model.reason
            if not model.state and self.launch.control_mode != "explicit":
                reason = poll_failure(log, model.name) or reason
            state = model.state or ("UNAVAILABLE" if reason else "")
            explained.append(replace(model, reason=self._in_source(reason), state=state))
        return explained

    def _endpoint(self, url: str) -> Endpoint:
        return Endpoint(url, http_headers(self.launch))

    def _log(self) -> list[str]:
        return list(self._process.log) if self._process is not None else []

    def _in_source(self, text: str) -> str:
        """``text`` with the user's paths instead of those that Triton sees."""
        return text if self.overlay is None else self.overlay.in_source(text)

    def _no_model(self, models: Sequence[ServedModel]) -> ServerError:
        if models:
            reasons = "; ".join(f"`{model.name}`: {model.reason or model.state}" for model in models)
            return ServerError(f"not one model could be loaded: {reasons}")
        reason = self._reason()
        skipped: Sequence[Skipped] = self.overlay.skipped if self.overlay is not None else ()
        found = ", ".join(f"{item.folder.name} ({item.reason})" for item in skipped) or "no model folder"
        return ServerError(
            f"there is no model to serve: {reason}" if reason else "there is no model to serve",
            expected="folders like NAME/1/proto.tnnproto with NAME/1/model.tnnmodel",
            found=found,
        )

    def _reason(self) -> str:
        """The first error lines of the log since the last start, in tritonserver's words."""
        return "; ".join(failure_reasons([self._in_source(line) for line in self._log()])[:3])

    def _log_hint(self) -> str | None:
        return "see the file given with --log-file" if self.launch.flag("log-file") else None


def _failure(code: int) -> Fault:
    """What to call the end of a server that nobody asked for."""
    return Fault("crash" if code < 0 else "exit", ending(code))
