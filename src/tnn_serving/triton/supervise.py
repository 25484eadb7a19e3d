"""Runs tritonserver as a child process: waits until it serves, restarts it when it dies, and ends it for good.

tritonserver needs a parent for three reasons. A crash in an engine ends the whole process. After SIGTERM it stays for
ever when a gRPC stream is open, and ends with code 1 when an HTTP client keeps an idle connection. And what models are
served, or why not, is only in its log and its repository index.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import IO, Any

from tnn_serving.errors import ServerError
from tnn_serving.serving.repository import Skipped
from tnn_serving.triton.index import ServedModel, get_json, list_models
from tnn_serving.triton.launch import Launch, check_ports
from tnn_serving.triton.log import failure_reasons, poll_failure
from tnn_serving.triton.overlay import Overlay

POLL_S = 0.2
SYNC_S = 0.5
"""How often an overlay follows its repository when models may come and go."""
KILL_AFTER_S = 5.0
"""How long after tritonserver's own exit timeout it is killed."""
HEALTHY_AFTER_S = 60.0
"""A server that ran this long has started well: its next failure is the first of a new series."""
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
    """

    launch: Launch
    overlay: Overlay | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    restarts: Restarts = field(default_factory=Restarts)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stops_asked: int = 0
    _child: subprocess.Popen[str] | None = None
    _log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    _next_sync: float = 0.0

    def run(self) -> int:
        """Serves until asked to stop, by SIGTERM, SIGINT, SIGHUP or :meth:`stop`; a second time kills at once.

        Returns:
            0 after a stop that was asked for; 1 when the server died too often.

        Raises:
            ServerError: a port is taken, the server never came up, or it has not one model to serve.
        """
        check_ports(self.launch)
        with self._signals():
            try:
                return self._keep_running()
            finally:
                self._kill()

    def stop(self) -> None:
        """Asks the server to stop; at the second call it is killed."""
        self._stops_asked += 1
        self._wake.set()

    @property
    def pid(self) -> int | None:
        """The process id of the running tritonserver."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    # ---- the life of the servers ----

    def _keep_running(self) -> int:
        was_ready = False
        failures = 0
        while not self._stops_asked:
            started = time.monotonic()
            child, reader = self._spawn()
            if self._wait_until_ready(child):
                models = self._models(first=not was_ready)
                was_ready = True
                self.callbacks.on_ready(models)
                self._watch(child)
            code = self._end(child) if self._stops_asked else child.wait()
            reader.join()
            what = _ending(code)
            if self._stops_asked:
                if code in _CRASHED_AT_END:
                    self.callbacks.on_warning(f"{what} while it was stopping; it had answered or dropped every request")
                    return 0
                return 0 if code in _CLEAN_CODES else 1
            if not was_ready:
                raise ServerError(f"tritonserver did not start: {self._reason() or what}", hint=self._log_hint())
            failures = 1 if time.monotonic() - started > HEALTHY_AFTER_S else failures + 1
            if failures > self.restarts.limit:
                self.callbacks.on_warning(f"{what}; it has died {failures} times in a row and is not started again")
                return 1
            delay_s = self.restarts.delay_s(failures)
            self.callbacks.on_restart(what, delay_s)
            self._wake.wait(delay_s)
        return 0

    def _spawn(self) -> tuple[subprocess.Popen[str], threading.Thread]:
        self._sync()
        self._log.clear()
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *self.launch.command],
            env=dict(self.launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            # A session of its own: Ctrl-C reaches this process only, which then stops the server once.
            start_new_session=True,
        )
        assert child.stdout is not None
        self._child = child
        reader = threading.Thread(target=self._read_log, args=(child.stdout,), name="tritonserver log", daemon=True)
        reader.start()
        return child, reader

    def _read_log(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                text = line.rstrip("\n")
                if self.overlay is not None:
                    text = self.overlay.in_source(text)
                self._log.append(text)
                self.callbacks.on_log(text)

    def _wait_until_ready(self, child: subprocess.Popen[str]) -> bool:
        """False when the child ended or a stop was asked for first. Triton listens when all models have been tried."""
        started = time.monotonic()
        while child.poll() is None and not self._stops_asked:
            if self._answers():
                return True
            self.callbacks.on_waiting(time.monotonic() - started)
            self._wake.wait(POLL_S)
        return False

    def _watch(self, child: subprocess.Popen[str]) -> None:
        while child.poll() is None and not self._stops_asked:
            if time.monotonic() >= self._next_sync and self.launch.control_mode != "none":
                self._sync()
            self._wake.wait(POLL_S)

    def _sync(self) -> None:
        if self.overlay is None:
            return
        try:
            self.overlay.sync()
        except OSError as error:
            self.callbacks.on_warning(f"cannot follow the repository: {error}")
        self._next_sync = time.monotonic() + SYNC_S

    def _end(self, child: subprocess.Popen[str]) -> int:
        """Asks the child to end, kills it when it doesn't or when somebody is in a hurry, and returns its code."""
        longest_s = self.launch.exit_timeout_s + KILL_AFTER_S
        self.callbacks.on_stop(longest_s)
        child.terminate()
        deadline = time.monotonic() + longest_s
        while child.poll() is None:
            if time.monotonic() > deadline or self._stops_asked > 1:
                self.callbacks.on_warning("tritonserver did not end in time and is killed")
                child.kill()
                break
            self._wake.clear()
            self._wake.wait(POLL_S)
        return child.wait()

    def _kill(self) -> None:
        """Whatever way :meth:`run` ends, no server is left."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

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
            return any("Started GRPCInferenceService" in line for line in list(self._log))
        try:
            get_json(f"{url}/v2/health/live")
        except urllib.error.HTTPError:
            return True  # alive, though not for us (a restricted endpoint)
        except OSError:
            return False
        return True

    def _models(self, *, first: bool) -> list[ServedModel]:
        """The models, on the first start with the demand that there be one to serve."""
        if self.launch.url is None:
            return []
        try:
            models = list_models(self.launch.url)
        except OSError as error:
            self.callbacks.on_warning(f"the server runs, but won't tell its models: {error}")
            return []
        models = [self._explained(model) for model in models]
        # Folders without a version, and in explicit mode those that nobody has asked to load.
        none = {item.folder.name for item in self.overlay.skipped} if self.overlay is not None else set()
        models = [model for model in models if model.state and (model.version or model.name not in none)]
        if first and self.launch.control_mode == "none" and not any(model.ready for model in models):
            raise self._no_model(models)
        return models

    def _explained(self, model: ServedModel) -> ServedModel:
        """The model with the reason that only the log tells (its config.pbtxt can't be read), and the user's paths."""
        reason = model.reason
        if not model.state:
            reason = poll_failure(list(self._log), model.name) or reason
        if self.overlay is not None:
            reason = self.overlay.in_source(reason)
        return replace(model, reason=reason, state=model.state or ("UNAVAILABLE" if reason else ""))

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
        return "; ".join(failure_reasons(list(self._log))[:3])

    def _log_hint(self) -> str | None:
        return "see the file given with --log-file" if self.launch.flag("log-file") else None


def _ending(code: int) -> str:
    if code >= 0:
        return f"tritonserver ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"tritonserver was ended by {name}"
