"""Threads that execute a model's requests, so that the server's own thread is free for the next ones."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]


class Lanes:
    """A fixed number of threads. They start with the first work and end with :meth:`close`.

    Args:
        count: pieces of work that may be begun at a time.
        name: for the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._count = count
        self._name = name
        self._lock = threading.Lock()

    def submit(self, work: Work) -> None:
        """Has ``work`` done in one of the threads; waits as long as all are busy, so that what comes meanwhile is
        gathered by the server. ``work`` must not raise."""
        self._free.acquire()
        if len(self._threads) < self._count:
            self._start()
        self._waiting.put(work)

    def close(self) -> None:
        """Ends the threads once they have done what was submitted."""
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join()

    def _start(self) -> None:
        with self._lock:
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._run, name=f"{self._name} lane", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                work()
            finally:
                self._free.release()
                del work
