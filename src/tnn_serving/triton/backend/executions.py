"""What runs in each model version, and for how long: the server's own health answers don't notice a hung model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PERIOD_S = 0.5
"""How often ages are published while something runs."""


class Watch:
    """A thread that publishes the age of each model version's oldest execution; it sleeps while nothing runs."""

    def __init__(self) -> None:
        self._models: set[Executions] = set()
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tnn-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._begun.set()
        self._thread.join()

    def executions(self, publish: Callable[[float], None]) -> Executions:
        """The record of a model version; ``publish`` gets the age in seconds of its oldest execution, or 0."""
        model = Executions(self._begun, publish)
        with self._lock:
            self._models.add(model)
        return model

    def forget(self, model: Executions) -> None:
        with self._lock:
            self._models.discard(model)

    def _run(self) -> None:
        while self._begun.wait() and not self._stopped.is_set():
            self._stopped.wait(PERIOD_S)
            # Before the look: what begins during it sets the event again.
            self._begun.clear()
            with self._lock:
                models = list(self._models)
            running = [model.tell() for model in models]  # all of them
            if any(running):
                self._begun.set()


class Executions:
    """The executions of one model version that have not been answered."""

    def __init__(self, begun: threading.Event, publish: Callable[[float], None]) -> None:
        self._begun = begun
        self._publish = publish
        self._running: dict[int, float] = {}
        publish(0)

    def begin(self, ticket: int) -> None:
        self._running[ticket] = time.monotonic()
        if not self._begun.is_set():
            self._begun.set()

    def end(self, ticket: int) -> None:
        self._running.pop(ticket, None)

    def tell(self) -> bool:
        """Publishes; returns whether something runs."""
        running = list(self._running.values())
        self._publish(time.monotonic() - min(running) if running else 0)
        return bool(running)


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
