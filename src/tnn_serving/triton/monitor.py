"""Watches the supervised server: looks at it once a second, and says how it is and when it must be restarted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from tnn_serving.triton.access import http_headers
from tnn_serving.triton.health import (
    CAUSES,
    ENGINE_ERRORS,
    UNLOADED,
    Fault,
    Health,
    Limits,
    Measured,
    Restart,
    VersionHealth,
    judged,
    missing_models,
)
from tnn_serving.triton.index import Endpoint, ServedModel, repository_index
from tnn_serving.triton.launch import Launch, is_true
from tnn_serving.triton.probe import answers, measure

LOOK_S = 1.0
LOOK_TIMEOUT_S = 2.0
REMEMBERED_RESTARTS = 20
UNWATCHED_S = 2.0
"""When nobody has asked for a fault for this long, this process did not run: it was stopped together with its server,
as in a frozen container. What lasts since before that is not held against the server."""

UNSEEN = "tritonserver answers; its models have not been looked at yet"

ENGINE_GRACE_S = 5.0
LONGEST_ENGINE_GRACE_S = 600.0
ENGINE_MEMORY_S = 3600.0
"""How long an engine may fail before the server is restarted for it: twice as long for each such restart within the
hour. A restart may cure an engine in a bad state; one that fails by nature must not cost the other models much."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen at a time, by the monotonic clock."""

    at_s: float
    index: Sequence[ServedModel]
    measured: Mapping[tuple[str, str], Measured]


@dataclass(slots=True)
class Monitor:
    """The health of the servers that a supervisor starts one after the other.

    The supervisor tells it what it does (:meth:`started`, :meth:`running`, ...) and asks for :meth:`fault`; anybody may
    ask for a :meth:`report`. All methods may be called from any thread.

    Args:
        launch: the server's command line.
        explained: adds to the index what only the supervisor knows.
    """

    launch: Launch
    limits: Limits = field(default_factory=Limits)
    explained: Callable[[Sequence[ServedModel]], Sequence[ServedModel]] = list
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _state: str = "starting"
    _pid: int | None = None
    _since_s: float = 0.0
    _answered_s: float | None = None
    _asked_s: float = 0.0
    _watched_since_s: float = 0.0
    _look: _Look | None = None
    _last_look: _Look | None = None
    _wanted: set[str] = field(default_factory=set)
    _engine_failing_since: dict[tuple[str, str], float] = field(default_factory=dict)
    _engine_restarts_s: list[float] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    _restarts: deque[Restart] = field(default_factory=lambda: deque(maxlen=REMEMBERED_RESTARTS))

    # ---- what the supervisor tells ----

    def start(self) -> None:
        """Begins to look, in a thread of its own."""
        threading.Thread(target=self._keep_looking, name="server monitor", daemon=True).start()

    def close(self) -> None:
        """Ends that thread, soon: it may be waiting for a server that will not answer any more."""
        self._closed.set()

    def started(self, pid: int) -> None:
        """A server process has been started; it does not answer yet."""
        self._enter("starting", pid)

    def running(self) -> None:
        """The server has begun to answer."""
        with self._lock:
            self._state = "running"
            self._answered_s = time.monotonic()
        self.look()

    def restarting(self, fault: Fault, delay_s: float) -> None:
        """The server is gone, and the next is started after a delay."""
        with self._lock:
            self._counts[fault.cause] += 1
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            self._restarts.append(Restart(at, fault.cause, fault.what, delay_s))
            if fault.cause == "engine":
                self._engine_restarts_s.append(time.monotonic())
        self._enter("restarting", None)

    def stopping(self) -> None:
        """The server has been asked to stop for good."""
        with self._lock:
            self._state = "stopping"

    def forget(self, model: str) -> None:
        """A model that was served will not be loaded again, and is not missed."""
        with self._lock:
            self._wanted.discard(model)

    def _enter(self, state: str, pid: int | None) -> None:
        with self._lock:
            self._state = state
            self._pid = pid
            self._since_s = time.monotonic()
            self._answered_s = None
            self._last_look = self._look or self._last_look
            self._look = None
            self._engine_failing_since.clear()

    # ---- looking ----

    def _keep_looking(self) -> None:
        while not self._closed.wait(LOOK_S):
            if self._state == "running":
                self.look()

    def look(self) -> None:
        """Looks at the server now."""
        pid = self._pid
        at_s = time.monotonic()
        try:
            seen = self._see(at_s)
        except OSError:
            return  # how long it has not answered tells the rest
        with self._lock:
            if self._state != "running" or self._pid != pid:
                return
            self._answered_s = at_s
            self._remember_wanted(seen.index, first=self._last_look is None and self._look is None)
            self._look = seen
            self._remember_failing(seen)

    def _see(self, at_s: float) -> _Look:
        """Everything that the switched-on endpoints tell; all of them must answer."""
        index: Sequence[ServedModel] = ()
        values: Mapping[tuple[str, str], Measured] = {}
        if self.launch.url is not None:
            server = Endpoint(self.launch.url, http_headers(self.launch))
            if not answers(server, timeout_s=LOOK_TIMEOUT_S):
                raise TimeoutError("the server does not answer")
            index = self.explained(repository_index(server, timeout_s=LOOK_TIMEOUT_S))
        metrics_url = self.launch.url_of("metrics")
        if metrics_url is not None:
            values = measure(Endpoint(metrics_url), timeout_s=LOOK_TIMEOUT_S)
        return _Look(at_s, index, values)

    def _remember_wanted(self, index: Sequence[ServedModel], *, first: bool) -> None:
        """Which models should answer: those that have, and those that could not be loaded, until somebody unloads or
        removes them. In explicit mode, one that could not be loaded by request is the requester's affair."""
        ready = {model.name for model in index if model.ready}
        unloaded = {model.name for model in index if model.reason == UNLOADED} - ready
        failed = {model.name for model in index if model.state == "UNAVAILABLE" and model.reason} - ready - unloaded
        if not is_true(self.launch.flag("strict-readiness", "true")):
            failed = set()
        elif self.launch.control_mode == "explicit" and not first:
            failed &= self._wanted
        self._wanted = (self._wanted & {model.name for model in index} | ready | failed) - unloaded

    def _remember_failing(self, seen: _Look) -> None:
        failing = {version for version, values in seen.measured.items() if values.engine_errors >= ENGINE_ERRORS}
        since = self._engine_failing_since
        self._engine_failing_since = {version: since.get(version, seen.at_s) for version in failing}

    # ---- what it makes of it ----

    def lost_models(self) -> list[str]:
        """Models that were served before and that the server has not loaded, by name."""
        with self._lock:
            index = self._look.index if self._look is not None else ()
            return sorted(self._wanted - {model.name for model in index if model.ready})

    def report(self) -> Health:
        """How everything is now."""
        with self._lock:
            now_s = time.monotonic()
            silence = self._silence(now_s)
            versions = self._versions()
            if silence:  # whatever was last seen of them, they do not answer now
                versions = [replace(one, ready=False, reason=silence) for one in versions]
            reason = silence or self._missing(versions)
            return Health(
                ready=not reason,
                reason=reason,
                up=not silence,
                state=self._state,
                pid=self._pid,
                answered_s_ago=None if self._answered_s is None else round(now_s - self._answered_s, 3),
                oldest_execution_s=max((one.oldest_execution_s for one in versions), default=0.0),
                restarts=dict(self._counts),
                last_restarts=tuple(self._restarts),
                models=tuple(versions),
            )

    def fault(self) -> Fault | None:
        """Why the running server must be restarted now; None when it need not be."""
        with self._lock:
            if self._state != "running" or self._answered_s is None:
                return None
            now_s = time.monotonic()
            if now_s - self._asked_s > UNWATCHED_S:
                self._watched_since_s = now_s
            self._asked_s = now_s
            watched_s = now_s - self._watched_since_s
            silent_s = min(now_s - self._answered_s, watched_s)
            if silent_s > self.limits.restart_after_s():
                return Fault("unresponsive", f"tritonserver has not answered for {silent_s:.0f} s")
            for one in self._versions():
                if min(one.oldest_execution_s, watched_s) > self.limits.restart_after_s(one.usual_execution_s):
                    return Fault("hang", f"model {one.name}, version {one.version}: {one.reason}")
            grace_s = self._engine_grace_s(now_s)
            for one in self._versions():
                since_s = self._engine_failing_since.get((one.name, one.version))
                if since_s is not None and now_s - since_s > grace_s:
                    return Fault("engine", f"model {one.name}, version {one.version}: {one.reason}")
            return None

    def _engine_grace_s(self, now_s: float) -> float:
        recent = [at_s for at_s in self._engine_restarts_s if now_s - at_s < ENGINE_MEMORY_S]
        self._engine_restarts_s = recent
        return float(min(ENGINE_GRACE_S * 2 ** min(len(recent), 30), LONGEST_ENGINE_GRACE_S))

    def _versions(self) -> list[VersionHealth]:
        """Every version that Triton has tried to load; those of the last server while the next one starts."""
        look = self._look or self._last_look
        if look is None:
            return []
        models: Sequence[ServedModel] = [model for model in look.index if model.state]
        if self.launch.url is None:  # no index; the metrics alone tell of models
            models = [ServedModel(name, version, "READY") for name, version in look.measured]
        return [
            judged(
                model.name,
                model.version,
                model.state,
                model.reason,
                look.measured.get((model.name, model.version), Measured()),
                self.limits,
            )
            for model in models
        ]

    def _silence(self, now_s: float) -> str:
        """Why the server as a whole can't be taken for answering; empty when it can."""
        if self._state != "running" or self._answered_s is None:
            return f"tritonserver is {self._state} (for {now_s - self._since_s:.0f} s)"
        silent_s = now_s - self._answered_s
        return f"tritonserver has not answered for {silent_s:.1f} s" if silent_s > self.limits.stall_report_s else ""

    def _missing(self, versions: Sequence[VersionHealth]) -> str:
        if self._look is None:  # it began to answer, and the first look took too long
            return UNSEEN
        missing = missing_models(versions, self._wanted)
        return "; ".join(f"model {name}: {why}" for name, why in sorted(missing.items()))
