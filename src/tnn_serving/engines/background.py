"""One thread for work that may be late: compilations that only make later inferences faster."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

log = logging.getLogger(__name__)

Work = Callable[[], None]


class Background:
    """Does one piece of work after another, in a thread that starts with the first and ends with :meth:`stop`.

    Attributes:
        around: entered for each piece of work.
    """

    def __init__(self) -> None:
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def submit(self, work: Work) -> None:
        """Has ``work`` done later; not at all after :meth:`stop`."""
        with self._lock:
            if self._stopping:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tnn background", daemon=True)
                self._thread.start()
        self._waiting.put(work)

    def settle(self, timeout_s: float | None = None) -> bool:
        """Waits until all that was submitted before is done; False if that took too long."""
        done = threading.Event()
        self.submit(done.set)
        return done.wait(timeout_s)

    def stop(self) -> None:
        """Drops what waits and waits for what is being done: a thread inside an engine must not outlive Python."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None and not self._stopping:
            try:
                with self.around():
                    work()
            except Exception:
                log.exception("work in the background failed")
            del work


BACKGROUND = Background()
"""The process' own: two compilations at a time would only slow each other, and the inferences, down."""
