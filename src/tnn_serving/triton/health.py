"""What counts as healthy: plain data and the judgement over it, without a server.

Triton goes on to call a model READY when an execution of it never returns or its engine fails every request, and a
backend has no way to withdraw that word. So the supervisor judges by what it can measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CAUSES = ("crash", "exit", "hang", "unresponsive", "engine")
"""Why a server is restarted: a signal ended it; it ended by itself; an execution does not return; it does not answer;
an engine fails every request."""

UNLOADED = "unloaded"
"""Triton's reason for a model that somebody has unloaded on purpose."""

ENGINE_ERRORS = 5
"""As many failures of the engine in a row, without an answer between, and the model is not ready. Requests that were
refused because they are wrong do not count."""

USUAL_TIMES = 20
"""An execution has not stalled before it takes so many times what the model usually takes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take.

    Attributes:
        stall_report_s: an execution or a server's answer that takes longer is reported. With the second between two
            looks and the backend's half second between two measurements, 3 reports a hang within 5.
        hang_timeout_s: one that takes longer is ended, by a restart of the server; 0 for never. Twenty times the other
            limit: the longest single inference on a few CPU cores takes seconds, and to kill a slow one by mistake
            costs all requests under way.
    """

    stall_report_s: float = 3.0
    hang_timeout_s: float = 60.0

    def report_after_s(self, usual_s: float = 0.0) -> float:
        """The age at which an execution of a model that usually takes ``usual_s`` is reported."""
        return max(self.stall_report_s, USUAL_TIMES * usual_s)

    def restart_after_s(self, usual_s: float = 0.0) -> float:
        """The age at which it is ended; a model is reported well before."""
        return max(self.hang_timeout_s, 2 * self.report_after_s(usual_s)) if self.hang_timeout_s else math.inf


@dataclass(frozen=True, slots=True)
class Measured:
    """What the server's metrics tell of one version of a model.

    Attributes:
        oldest_execution_s: how long its oldest running execution has been running; 0 when none is.
        usual_execution_s: the mean of its finished ones; 0 before the first.
        engine_errors: failures of its engine since its last answer.
    """

    oldest_execution_s: float = 0.0
    usual_execution_s: float = 0.0
    engine_errors: int = 0


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """One version of a model.

    Attributes:
        state: Triton's word.
        ready: it answers requests, as far as can be known.
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


def judged(name: str, version: str, state: str, reason: str, measured: Measured, limits: Limits) -> VersionHealth:
    """The health of a version with Triton's ``state`` and ``reason``."""
    ready = state == "READY"
    age_s, usual_s = measured.oldest_execution_s, measured.usual_execution_s
    if ready and age_s > limits.report_after_s(usual_s):
        usually = f", usually {usual_s:.3g} s" if usual_s else ""
        ready, reason = False, f"an execution has been running for {age_s:.1f} s{usually}"
    elif ready and measured.engine_errors >= ENGINE_ERRORS:
        ready, reason = False, f"its engine has failed {measured.engine_errors} times in a row"
    return VersionHealth(name, version, state, ready, reason, age_s, usual_s, measured.engine_errors)


def missing_models(versions: Sequence[VersionHealth], wanted: Iterable[str]) -> dict[str, str]:
    """The models that should answer and don't, each with the reason.

    A version that could not be loaded takes nothing away from another one of its model that answers; one that was
    loaded and fails does.

    Args:
        wanted: names of models that should answer, beside those that are loaded.
    """
    missing = dict.fromkeys(wanted, "it is not loaded")
    missing |= {one.name: one.reason for one in versions if one.name in missing and one.reason not in ("", UNLOADED)}
    for one in versions:
        if one.ready:
            missing.pop(one.name, None)
    return missing | {one.name: one.reason for one in versions if one.state == "READY" and not one.ready}


@dataclass(frozen=True, slots=True)
class Restart:
    """One restart: when (UTC, ISO 8601), why, and how long after the end the server was started again."""

    at: str
    cause: str
    what: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """How the server and its models are.

    Attributes:
        ready: the server answers, and so does each model that should.
        reason: why not.
        up: the server answers.
        state: "starting", "running", "restarting" or "stopping".
        pid: tritonserver's process; None when there is none.
        answered_s_ago: how long ago the server was last heard of; None when it has not been heard of since its start.
        oldest_execution_s: that of all models.
        restarts: how many for each cause since the supervisor started.
        last_restarts: the last of them, the newest at the end.
    """

    ready: bool
    reason: str
    up: bool
    state: str
    pid: int | None
    answered_s_ago: float | None
    oldest_execution_s: float
    restarts: dict[str, int]
    last_restarts: tuple[Restart, ...]
    models: tuple[VersionHealth, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server must be restarted: one of :data:`CAUSES`, and a sentence."""

    cause: str
    what: str
