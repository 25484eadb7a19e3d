"""How often the engine of a model has failed in a row: Triton's own health answers don't notice it."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
