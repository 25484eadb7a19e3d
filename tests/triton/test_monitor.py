"""What the monitor concludes from polls. The clock and the polls are the test's; the rest is real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tnn_serving.triton import monitor as monitor_module
from tnn_serving.triton.health import MAX_ENGINE_ERRORS, Fault, Health, HealthLimits, ServerMetrics, VersionMetrics
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.monitor import ENGINE_GRACE_S, POLL_INTERVAL_S, Monitor

LIMITS = HealthLimits(stall_report_s=3, hang_timeout_s=10)
PID = 1
MODEL = ("relu", "1")
ELSEWHERE = ("ensemble", "1")
"""A model of another backend."""


@dataclass
class World:
    """A server whose metrics the test chooses, and a clock that the test moves."""

    monitor: Monitor
    now_s: float = 1000.0
    heartbeats: float | None = 7
    values: VersionMetrics = field(default_factory=lambda: VersionMetrics(in_python=True))
    answers: bool = True
    answer_takes_s: float = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def metrics(self, *_: object, **__: object) -> ServerMetrics:
        if not self.answers:
            raise TimeoutError
        self.now_s += self.answer_takes_s
        return ServerMetrics({MODEL: self.values, ELSEWHERE: VersionMetrics()}, self.heartbeats)

    def started(self) -> None:
        """Another server starts and answers."""
        self.monitor.started(PID)
        self.monitor.running()

    def passes(self, seconds: float, *, beats: bool = False) -> Fault | None:
        """Polls and looks for a fault once per second, as the supervisor does; the first fault."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += POLL_INTERVAL_S
            if beats and self.heartbeats is not None:
                self.heartbeats += 1
            self.monitor.poll()
            if fault := self.monitor.fault():
                return fault
        return None

    def report(self) -> Health:
        return self.monitor.report()

    def ready(self, version: tuple[str, str]) -> bool:
        (one,) = [one for one in self.report().models if (one.name, one.version) == version]
        return one.ready


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    launch = Launch(("tritonserver", "--allow-http=false", "--metrics-port=1"), {})
    world = World(Monitor(launch, LIMITS))
    monkeypatch.setattr(monitor_module.time, "monotonic", world.monotonic)
    monkeypatch.setattr(monitor_module, "read_metrics", world.metrics)
    world.started()
    return world


def test_a_server_whose_heart_beats_is_ready(world: World) -> None:
    assert world.passes(60, beats=True) is None
    report = world.report()
    assert (report.ready, report.up, report.frozen_s) == (True, True, 0)


def test_a_heart_that_stands_still_is_reported_and_then_a_hang(world: World) -> None:
    world.passes(5, beats=True)
    assert world.passes(3) is None
    assert world.report().ready
    world.values = VersionMetrics(oldest_execution_s=1.5, in_python=True)
    assert world.passes(1) is None
    report = world.report()
    assert (report.ready, report.up, report.frozen_s) == (False, True, 4)
    assert report.reason == (
        "Python inside tritonserver has not moved for 4.0 s; "
        "the oldest execution, of model relu, version 1, has been running for 1.5 s"
    )
    assert not world.ready(MODEL)
    assert world.ready(ELSEWHERE)
    assert world.passes(6) is None
    fault = world.passes(1)
    assert fault is not None
    assert fault.cause == "hang"
    assert "has not moved for 11.0 s; the oldest execution, of model relu" in fault.what


def test_a_heart_that_beats_again_is_well(world: World) -> None:
    world.passes(5)
    assert not world.report().ready
    world.passes(1, beats=True)
    assert world.report().ready
    assert world.passes(9) is None


def test_nothing_is_restarted_when_that_is_switched_off(world: World) -> None:
    world.monitor.limits = HealthLimits(stall_report_s=3, hang_timeout_s=0)
    assert world.passes(10_000) is None
    assert not world.report().ready


def test_a_server_without_heartbeats_is_not_judged_by_them(world: World) -> None:
    """No model of the backend has been loaded yet, or the server knows no metrics of backends."""
    world.heartbeats = None
    world.values = VersionMetrics()
    assert world.passes(60) is None
    assert world.report().ready


def test_the_first_heartbeat_may_come_late(world: World) -> None:
    world.heartbeats = None
    world.passes(60)
    world.heartbeats = 0
    world.passes(1)
    assert world.report().frozen_s == 0
    world.heartbeats = None  # the backend has ended
    world.passes(60)
    assert world.report().ready


def test_the_next_server_is_not_judged_by_the_last_one(world: World) -> None:
    world.passes(5)
    world.started()
    report = world.report()
    assert (report.ready, report.frozen_s) == (True, 0)


def test_polls_that_fail_do_not_make_the_heart_beat(world: World) -> None:
    world.passes(4)
    world.answers = False
    world.passes(2)
    world.answers = True
    fault = world.passes(6)
    assert fault is not None
    assert fault.cause == "hang"


def test_slow_answers_are_no_frozen_heart(world: World) -> None:
    """Two polls whose answers take long are seconds apart, and may see the same heartbeat none the less."""
    world.answer_takes_s = 2.0
    world.passes(1, beats=True)
    world.passes(3)
    assert world.report().frozen_s == POLL_INTERVAL_S


def test_a_pause_of_the_supervisor_is_no_frozen_heart(world: World) -> None:
    world.passes(2, beats=True)
    world.now_s += 600
    assert world.passes(9) is None


def test_failures_of_an_engine_are_not_believed_while_the_heart_stands_still(world: World) -> None:
    world.values = VersionMetrics(engine_errors=MAX_ENGINE_ERRORS, in_python=True)
    assert world.passes(ENGINE_GRACE_S + 1) is None
    fault = world.passes(1, beats=True)
    assert fault is not None
    assert fault.cause == "engine"


@pytest.mark.parametrize("beats", [False, True])
def test_an_execution_that_hangs_is_named(world: World, beats: bool) -> None:
    """Ages do not go through Python: they are believed at any time."""
    world.passes(11, beats=True)
    world.values = VersionMetrics(oldest_execution_s=11, in_python=True)
    fault = world.passes(1, beats=beats)
    assert fault is not None
    assert fault.cause == "hang"
    assert fault.what == "model relu, version 1: an execution has been running for 11.0 s"


@pytest.mark.parametrize(
    ("change", "ready"), [(lambda world: world.monitor.stopping(), False), (lambda world: None, True)]
)
def test_only_a_running_server_is_ready(world: World, change: Callable[[World], None], ready: bool) -> None:
    change(world)
    assert world.report().ready is ready
