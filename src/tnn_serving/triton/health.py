"""The health of models, from plain data, without a server.

Triton reports a model as READY even if an execution never returns or its engine fails every request, and a backend
cannot change that state. So the supervisor derives the health from measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

CAUSES = ("crash", "exit", "hang", "unresponsive", "engine")
"""Causes of a restart: a signal ended the server; it exited; an execution does not return, or Python inside the server
does not move; the server does not answer; an engine fails every request."""

UNLOADED = "unloaded"
"""Triton's reason for a model that was unloaded on request."""

HEALTH_PORT = 8003
"""Port of the supervisor's health endpoint."""

MAX_ENGINE_ERRORS = 5
"""A model is not ready after this many successive failures of its engine. Refused invalid requests do not count."""

STALL_FACTOR = 20
"""An execution counts as stalled only if it takes more than this many times the usual time of its model."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Time limits of executions, of answers, and of pauses of Python inside the server.

    Attributes:
        stall_report_s: what takes longer is reported as not ready. As the monitor polls every second, and the backend
            measures every half second, the default reports a hang within 5 s.
        hang_timeout_s: after what takes longer, the server is restarted; 0 for never. The default is long, because a
            single inference on a few CPU cores can take seconds, and a restart loses all running requests.
    """

    stall_report_s: float = 3.0
    hang_timeout_s: float = 60.0

    def report_after_s(self, usual_s: float = 0.0) -> float:
        """The age at which an execution of a model that usually takes ``usual_s`` is reported."""
        return max(self.stall_report_s, STALL_FACTOR * usual_s)

    def restart_after_s(self, usual_s: float = 0.0) -> float:
        """The age at which the server is restarted, at least twice :meth:`report_after_s`."""
        return max(self.hang_timeout_s, 2 * self.report_after_s(usual_s)) if self.hang_timeout_s else math.inf


@dataclass(frozen=True, slots=True)
class VersionMetrics:
    """Metrics of one version of a model.

    Attributes:
        oldest_execution_s: age of the oldest running execution; 0 if there is none.
        usual_execution_s: mean duration of completed executions; 0 before the first.
        engine_errors: failures of its engine since its last answer, as Python inside the server has counted them.
        in_python: whether its executions go through Python inside the server, unlike those of other backends.
    """

    oldest_execution_s: float = 0.0
    usual_execution_s: float = 0.0
    engine_errors: int = 0
    in_python: bool = False


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """Metrics of a server.

    Attributes:
        versions: by (model, version).
        heartbeats: of Python inside the server; None if it has not been started, or the server has no such metric.
    """

    versions: Mapping[tuple[str, str], VersionMetrics] = field(default_factory=dict)
    heartbeats: float | None = None


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """Health of one version of a model.

    Attributes:
        state: Triton's state.
        ready: whether it answers requests, as far as is known.
        reason: why it is not ready, or could not be loaded.
    """

    name: str
    version: str
    state: str
    ready: bool
    reason: str
    oldest_execution_s: float = 0.0
    usual_execution_s: float = 0.0
    engine_errors: int = 0


def version_health(
    name: str, version: str, state: str, reason: str, measured: VersionMetrics, limits: HealthLimits, frozen: str = ""
) -> VersionHealth:
    """The health of a version, from Triton's ``state`` and ``reason`` and its metrics.

    Args:
        frozen: why nothing that goes through Python inside the server is answered; empty if it is.
    """
    ready = state == "READY"
    age_s, usual_s = measured.oldest_execution_s, measured.usual_execution_s
    if ready and age_s > limits.report_after_s(usual_s):
        usually = f", usually {usual_s:.3g} s" if usual_s else ""
        ready, reason = False, f"an execution has been running for {age_s:.1f} s{usually}"
    elif ready and frozen and measured.in_python:
        ready, reason = False, frozen
    elif ready and measured.engine_errors >= MAX_ENGINE_ERRORS:
        ready, reason = False, f"its engine has failed {measured.engine_errors} times in a row"
    return VersionHealth(name, version, state, ready, reason, age_s, usual_s, measured.engine_errors)


def missing_models(versions: Sequence[VersionHealth], expected: Iterable[str]) -> dict[str, str]:
    """The models that should answer but do not, with the reason.

    A model is also missing if one of its loaded versions fails, but not if a version could not be loaded while another
    version answers.

    Args:
        expected: names of models that should answer, in addition to those that are loaded.
    """
    missing = dict.fromkeys(expected, "it is not loaded")
    missing |= {one.name: one.reason for one in versions if one.name in missing and one.reason not in ("", UNLOADED)}
    for one in versions:
        if one.ready:
            missing.pop(one.name, None)
    return missing | {one.name: one.reason for one in versions if one.state == "READY" and not one.ready}


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart.

    Attributes:
        at: UTC, ISO 8601.
        cause: one of :data:`CAUSES`.
        what: a description.
        delay_s: time between the end of the server and its next start.
    """

    at: str
    cause: str
    what: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """Health of the server and its models.

    Attributes:
        ready: whether the server and all expected models answer.
        reason: why not.
        up: whether the server answers.
        state: "starting", "running", "restarting" or "stopping".
        pid: tritonserver's process; None if there is none.
        answered_s_ago: time since the server's last answer; None if it has not answered since its start.
        frozen_s: how long Python inside the server has not moved, as far as polls have seen; 0 if it moves.
        oldest_execution_s: maximum over all models.
        restarts: count per cause since the supervisor started.
        last_restarts: the latest restarts, the newest last.
    """

    ready: bool
    reason: str
    up: bool
    state: str
    pid: int | None
    answered_s_ago: float | None
    frozen_s: float
    oldest_execution_s: float
    restarts: dict[str, int]
    last_restarts: tuple[Restart, ...]
    models: tuple[VersionHealth, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server must be restarted: one of :data:`CAUSES`, and a description."""

    cause: str
    what: str
