"""Threads that execute a model's requests, so that the server's own thread is free for the next ones."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

Work = Callable[[], None]
Lane: TypeAlias = "queue.SimpleQueue[Work | None]"


class Lanes:
    """Threads for so much work at a time. Each starts when there is none for it, and ends with :meth:`close`.

    Work goes to the thread that was busy last: an engine's threads look for more where they have just been.

    Args:
        count: pieces of work that may be begun at a time.
        name: for the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._idle: list[Lane] = []
        self._threads: list[tuple[threading.Thread, Lane]] = []
        self._name = name

    def submit(self, work: Work) -> None:
        """Has ``work`` done in one of the threads; waits as long as all are busy, so that what comes meanwhile is
        gathered by the server. ``work`` must not raise."""
        self._free.acquire()
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._start()
        lane.put(work)

    def close(self) -> None:
        """Ends the threads once they have done what was submitted."""
        for _, lane in self._threads:
            lane.put(None)
        for thread, _ in self._threads:
            thread.join()

    def _start(self) -> Lane:
        lane: Lane = queue.SimpleQueue()
        thread = threading.Thread(target=self._run, args=(lane,), name=f"{self._name} lane", daemon=True)
        thread.start()
        self._threads.append((thread, lane))
        return lane

    def _run(self, lane: Lane) -> None:
        while (work := lane.get()) is not None:
            try:
                work()
            finally:
                del work
                self._idle.append(lane)  # before somebody is let in who looks for it
                self._free.release()
