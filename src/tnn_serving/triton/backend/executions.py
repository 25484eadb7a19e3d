"""How long executions have been running: the server's own health answers don't notice a model that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable

PERIOD_S = 0.5
"""How often ages are published while something runs."""


class Watch:
    """A thread that publishes the age of each model version's oldest execution; it sleeps while nothing runs.

    Attributes:
        sleeps: an execution that begins meanwhile must call :meth:`wake`. (Reading this is all that others pay.)

    Args:
        oldest: gives the age in seconds of a model's oldest execution, by the model's handle; 0 when none runs.
    """

    def __init__(self, oldest: Callable[[int], float]) -> None:
        self.sleeps = True
        self._oldest = oldest
        self._models: dict[int, Callable[[float], None]] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tnn-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()
        self._thread.join()

    def add(self, model: int, publish: Callable[[float], None]) -> None:
        """Has the age of ``model``'s oldest execution published, beginning with 0 now."""
        publish(0)
        with self._lock:
            self._models[model] = publish

    def remove(self, model: int) -> None:
        """Nothing of ``model`` is published any more when this returns."""
        with self._lock:
            del self._models[model]

    def wake(self) -> None:
        self.sleeps = False
        self._woken.set()

    def _run(self) -> None:
        while self._woken.wait() and not self._stopped.wait(PERIOD_S):
            if not self._publish():
                self._woken.clear()
                self.sleeps = True
                # What began before `sleeps` was true has not called wake(), and stop() may have come before clear().
                if self._publish() or self._stopped.is_set():
                    self.wake()

    def _publish(self) -> bool:
        """Whether something runs."""
        running = False
        with self._lock:
            for model, publish in self._models.items():
                age_s = self._oldest(model)
                running = running or age_s > 0
                publish(age_s)
        return running


class Failures:
    """Internal errors of one model version since its last answer; ``publish`` gets each new count."""

    def __init__(self, publish: Callable[[int], None]) -> None:
        self._publish = publish
        self._count = 0
        self._lock = threading.Lock()
        publish(0)

    def failed(self) -> None:
        with self._lock:
            self._count += 1
            self._publish(self._count)

    def answered(self) -> None:
        if self._count:  # nearly always 0, which costs no lock
            with self._lock:
                self._count = 0
                self._publish(0)
