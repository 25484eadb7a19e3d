"""Monitors the supervised server: polls it once per second, reports its health, and decides when to restart it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from tnn_serving.triton.access import http_headers
from tnn_serving.triton.flags import is_true
from tnn_serving.triton.health import (
    CAUSES,
    MAX_ENGINE_ERRORS,
    UNLOADED,
    Fault,
    Health,
    HealthLimits,
    Restart,
    ServerMetrics,
    VersionHealth,
    VersionMetrics,
    missing_models,
    version_health,
)
from tnn_serving.triton.index import Endpoint, ServedModel, repository_index
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.probe import answers, read_metrics

POLL_INTERVAL_S = 1.0
POLL_TIMEOUT_S = 2.0
REMEMBERED_RESTARTS = 20
UNWATCHED_S = 2.0
"""If :meth:`Monitor.fault` is not called for this long, this process was suspended together with its server, as in a
frozen container. The time before is then ignored when durations are compared with the limits."""

NOT_POLLED = "tritonserver answers; its models have not been polled yet"

ENGINE_GRACE_S = 5.0
LONGEST_ENGINE_GRACE_S = 600.0
ENGINE_MEMORY_S = 3600.0
"""How long an engine may fail before the server is restarted; doubled by each such restart within the last hour. A
restart may repair an engine in a bad state, but a model that always fails must not interrupt the others often."""


@dataclass(frozen=True, slots=True)
class _Poll:
    """The result of one poll. Times are of the monotonic clock.

    Attributes:
        at_s: when it began.
        moved_s: when the latest poll ended that saw other heartbeats than the poll before it.
    """

    at_s: float
    moved_s: float
    index: Sequence[ServedModel]
    measured: ServerMetrics

    @property
    def frozen_s(self) -> float:
        """How long Python inside the server has not moved, at least; 0 if it has since the poll before."""
        return max(self.at_s - self.moved_s, 0.0)


@dataclass(slots=True)
class Monitor:
    """The health of a supervisor's server across restarts.

    The supervisor reports what it does (:meth:`started`, :meth:`running`, ...) and calls :meth:`fault`. All methods are
    thread-safe.

    Args:
        launch: the server's command line.
        with_reasons: adds to the index what only the supervisor knows.
        front_problem: why callers do not reach the server; empty if they do.
    """

    launch: Launch
    limits: HealthLimits = field(default_factory=HealthLimits)
    with_reasons: Callable[[Sequence[ServedModel]], Sequence[ServedModel]] = list
    front_problem: Callable[[], str] = str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _state: str = "starting"
    _pid: int | None = None
    _since_s: float = 0.0
    _answered_s: float | None = None
    _checked_s: float = 0.0
    _watched_since_s: float = 0.0
    _latest: _Poll | None = None
    _previous: _Poll | None = None
    _expected: set[str] = field(default_factory=set)
    _engine_failing_since: dict[tuple[str, str], float] = field(default_factory=dict)
    _engine_restarts_s: list[float] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    _restarts: deque[Restart] = field(default_factory=lambda: deque(maxlen=REMEMBERED_RESTARTS))

    # ---- events from the supervisor ----

    def start(self) -> None:
        """Starts polling in a background thread."""
        threading.Thread(target=self._keep_polling, name="server monitor", daemon=True).start()

    def close(self) -> None:
        """Ends polling, after the poll in progress."""
        self._closed.set()

    def started(self, pid: int) -> None:
        """A server process has started but does not answer yet."""
        self._enter("starting", pid)

    def running(self) -> None:
        """The server answers."""
        with self._lock:
            self._state = "running"
            self._answered_s = time.monotonic()
        self.poll()

    def restarting(self, fault: Fault, delay_s: float) -> None:
        """The server has ended and will be started again after a delay."""
        with self._lock:
            self._counts[fault.cause] += 1
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            self._restarts.append(Restart(at, fault.cause, fault.what, delay_s))
            if fault.cause == "engine":
                self._engine_restarts_s.append(time.monotonic())
        self._enter("restarting", None)

    def stopping(self) -> None:
        """The server is being stopped."""
        with self._lock:
            self._state = "stopping"
            self._since_s = time.monotonic()

    def answered(self) -> bool:
        """Whether the running server has answered since its start."""
        with self._lock:
            return self._state == "running" and self._answered_s is not None

    def forget(self, model: str) -> None:
        """A model is no longer expected to answer: it will not be loaded again."""
        with self._lock:
            self._expected.discard(model)

    def _enter(self, state: str, pid: int | None) -> None:
        with self._lock:
            self._state = state
            self._pid = pid
            self._since_s = time.monotonic()
            self._answered_s = None
            self._previous = self._latest or self._previous
            self._latest = None
            self._engine_failing_since.clear()

    # ---- polling ----

    def _keep_polling(self) -> None:
        while not self._closed.wait(POLL_INTERVAL_S):
            if self._state == "running":
                self.poll()

    def poll(self) -> None:
        """Polls the server now."""
        pid = self._pid
        at_s = time.monotonic()
        try:
            polled = self._poll_server(at_s)
        except OSError:
            return  # the report states how long it has not answered
        with self._lock:
            if self._state != "running" or self._pid != pid:
                return
            latest, heartbeats = self._latest, polled.measured.heartbeats
            if latest is not None and heartbeats is not None and heartbeats == latest.measured.heartbeats:
                polled = replace(polled, moved_s=latest.moved_s)
            self._answered_s = at_s
            self._update_expected(polled.index, first=self._previous is None and self._latest is None)
            self._latest = polled
            self._update_failing(polled)

    def _poll_server(self, at_s: float) -> _Poll:
        """The state of the server from all enabled endpoints. Raises OSError if one does not answer."""
        index: Sequence[ServedModel] = ()
        values = ServerMetrics()
        if self.launch.url is not None:
            server = Endpoint(self.launch.url, http_headers(self.launch))
            if not answers(server, timeout_s=POLL_TIMEOUT_S):
                raise TimeoutError("the server does not answer")
            index = self.with_reasons(repository_index(server, timeout_s=POLL_TIMEOUT_S))
        metrics_url = self.launch.url_of("metrics")
        if metrics_url is not None:
            values = read_metrics(Endpoint(metrics_url), timeout_s=POLL_TIMEOUT_S)
        return _Poll(at_s, time.monotonic(), index, values)

    def _update_expected(self, index: Sequence[ServedModel], *, first: bool) -> None:
        """Updates which models should answer: those that have answered, and those that could not be loaded, until they
        are unloaded or removed. In explicit mode, a failed load request does not make a model expected."""
        ready = {model.name for model in index if model.ready}
        unloaded = {model.name for model in index if model.reason == UNLOADED} - ready
        failed = {model.name for model in index if model.state == "UNAVAILABLE" and model.reason} - ready - unloaded
        if not is_true(self.launch.flag("strict-readiness", "true")):
            failed = set()
        elif self.launch.control_mode == "explicit" and not first:
            failed &= self._expected
        self._expected = (self._expected & {model.name for model in index} | ready | failed) - unloaded

    def _update_failing(self, polled: _Poll) -> None:
        measured = polled.measured.versions
        failing = {version for version, values in measured.items() if values.engine_errors >= MAX_ENGINE_ERRORS}
        since = self._engine_failing_since
        self._engine_failing_since = {version: since.get(version, polled.at_s) for version in failing}

    # ---- conclusions ----

    def lost_models(self) -> list[str]:
        """Names of models that were served before and are not loaded now."""
        with self._lock:
            index = self._latest.index if self._latest is not None else ()
            return sorted(self._expected - {model.name for model in index if model.ready})

    def report(self) -> Health:
        """The current health."""
        with self._lock:
            now_s = time.monotonic()
            silence = self._silence(now_s)
            frozen_s = self._frozen_s()
            frozen = self._frozen_reason(frozen_s) if frozen_s > self.limits.stall_report_s else ""
            versions = self._versions(frozen)
            if silence:  # the models do not answer either
                versions = [replace(one, ready=False, reason=silence) for one in versions]
            reason = silence or self.front_problem() or frozen or self._missing(versions)
            return Health(
                ready=not reason,
                reason=reason,
                up=not silence,
                state=self._state,
                pid=self._pid,
                answered_s_ago=None if self._answered_s is None else round(now_s - self._answered_s, 3),
                frozen_s=round(frozen_s, 3),
                oldest_execution_s=max((one.oldest_execution_s for one in versions), default=0.0),
                restarts=dict(self._counts),
                last_restarts=tuple(self._restarts),
                models=tuple(versions),
            )

    def fault(self) -> Fault | None:
        """Why the running server must be restarted now, if at all."""
        with self._lock:
            if self._state != "running" or self._answered_s is None:
                return None
            now_s = time.monotonic()
            if now_s - self._checked_s > UNWATCHED_S:
                self._watched_since_s = now_s
            self._checked_s = now_s
            watched_s = now_s - self._watched_since_s
            silent_s = min(now_s - self._answered_s, watched_s)
            if silent_s > self.limits.restart_after_s():
                return Fault("unresponsive", f"tritonserver has not answered for {silent_s:.0f} s")
            frozen_s = min(self._frozen_s(), watched_s)
            if frozen_s > self.limits.restart_after_s():
                return Fault("hang", self._frozen_reason(frozen_s))
            for one in self._versions():
                if min(one.oldest_execution_s, watched_s) > self.limits.restart_after_s(one.usual_execution_s):
                    return Fault("hang", f"model {one.name}, version {one.version}: {one.reason}")
            if frozen_s > self.limits.stall_report_s:
                return None  # counts of failures stand still as well
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

    def _frozen_s(self) -> float:
        return self._latest.frozen_s if self._latest is not None else 0.0

    def _frozen_reason(self, frozen_s: float) -> str:
        """That Python inside the server has not moved for so long, and which execution may be the cause."""
        text = f"Python inside tritonserver has not moved for {frozen_s:.1f} s"
        oldest = max(self._versions(), key=lambda one: one.oldest_execution_s, default=None)
        if oldest is None or not oldest.oldest_execution_s:
            return text
        return (
            f"{text}; the oldest execution, of model {oldest.name}, version {oldest.version}, "
            f"has been running for {oldest.oldest_execution_s:.1f} s"
        )

    def _versions(self, frozen: str = "") -> list[VersionHealth]:
        """All versions that Triton has tried to load; during a start, those of the previous server."""
        poll = self._latest or self._previous
        if poll is None:
            return []
        models: Sequence[ServedModel] = [model for model in poll.index if model.state]
        if self.launch.url is None:  # no index; only the metrics list models
            models = [ServedModel(name, version, "READY") for name, version in poll.measured.versions]
        return [
            version_health(
                model.name,
                model.version,
                model.state,
                model.reason,
                poll.measured.versions.get((model.name, model.version), VersionMetrics()),
                self.limits,
                frozen,
            )
            for model in models
        ]

    def _silence(self, now_s: float) -> str:
        """Why the server as a whole does not answer; empty if it does."""
        if self._state != "running" or self._answered_s is None:
            return f"tritonserver is {self._state} (for {now_s - self._since_s:.0f} s)"
        silent_s = now_s - self._answered_s
        return f"tritonserver has not answered for {silent_s:.1f} s" if silent_s > self.limits.stall_report_s else ""

    def _missing(self, versions: Sequence[VersionHealth]) -> str:
        if self._latest is None:  # the first poll has failed
            return NOT_POLLED
        missing = missing_models(versions, self._expected)
        return "; ".join(f"model {name}: {why}" for name, why in sorted(missing.items()))
