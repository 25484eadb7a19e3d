"""The thread that publishes how long executions have been running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tnn_serving.triton.backend import executions
from tnn_serving.triton.backend.executions import Watch

DEADLINE_S = 30.0


class Ages:
    """Ages that are looked at one after another; 0 when there are no more."""

    def __init__(self) -> None:
        self.next: list[float] = []
        self.published: list[float] = []
        self.asleep = threading.Event()
        self.watch = Watch(self.oldest)

    def oldest(self, model: int) -> float:
        assert model == 7
        return self.next.pop(0) if self.next else 0

    def publish(self, age_s: float) -> None:
        self.published.append(age_s)
        if not self.next and self.watch.sleeps:
            self.asleep.set()


@pytest.fixture
def ages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ages]:
    monkeypatch.setattr(executions, "PERIOD_S", 0.001)
    ages = Ages()
    ages.watch.add(7, ages.publish)
    ages.asleep.clear()
    yield ages
    ages.watch.stop()


def test_ages_are_published_until_nothing_runs(ages: Ages) -> None:
    assert ages.watch.sleeps
    assert ages.published == [0]
    ages.next = [0.5, 1.0, 1.5]
    ages.watch.wake()
    assert ages.asleep.wait(DEADLINE_S)
    assert ages.published[:4] == [0, 0.5, 1.0, 1.5]
    assert ages.published[-1] == 0
    assert ages.watch.sleeps


def test_what_begins_as_the_thread_falls_asleep_is_seen(ages: Ages) -> None:
    ages.next = [0.5, 0, 2.0, 2.5]
    ages.watch.wake()
    assert ages.asleep.wait(DEADLINE_S)
    assert ages.published[:5] == [0, 0.5, 0, 2.0, 2.5]


def test_a_model_that_is_removed_is_not_asked(ages: Ages) -> None:
    ages.watch.remove(7)
    ages.next = [1.0]
    ages.watch.wake()
    ages.watch.stop()
    assert ages.published == [0]


def test_it_ends_although_it_was_about_to_fall_asleep() -> None:
    stopping = threading.Event()

    def oldest(model: int) -> float:
        if not stopping.is_set():
            stopper.start()
            stopping.set()
            while not watch._stopped.is_set():  # stop() has begun, while this thread has seen that nothing runs
                time.sleep(0.001)
        return 0

    watch = Watch(oldest)
    stopper = threading.Thread(target=watch.stop, daemon=True)
    watch.add(7, lambda age_s: None)
    watch.wake()
    assert stopping.wait(DEADLINE_S)
    stopper.join(DEADLINE_S)
    assert not stopper.is_alive()


class InterruptedWatch(Watch):
    """An execution begins and ends at once when the thread first says that it sleeps."""

    interrupted = False
    _sleeps = False

    @property
    def sleeps(self) -> bool:
        return self._sleeps

    @sleeps.setter
    def sleeps(self, value: bool) -> None:
        self._sleeps = value
        if value and not self.interrupted and threading.current_thread().name == "tnn-watch":
            self.interrupted = True
            self.wake()


def test_a_short_execution_as_it_falls_asleep_does_not_hide_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executions, "PERIOD_S", 0.001)
    running, seen = threading.Event(), threading.Event()
    watch = InterruptedWatch(lambda model: float(running.is_set()))
    watch.add(7, lambda age_s: seen.set() if age_s else None)
    watch.wake()
    end = time.monotonic() + DEADLINE_S
    while not watch.interrupted or (not watch.sleeps and watch._woken.is_set()):
        assert time.monotonic() < end
        time.sleep(0.001)
    running.set()
    if watch.sleeps:  # as an execution does
        watch.wake()
    assert seen.wait(DEADLINE_S)
    running.clear()
    watch.stop()
