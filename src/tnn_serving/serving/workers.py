"""Threads that execute a model's requests, so that the server's own thread is free for the next ones."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

Decoding = Callable[[], None]
Inbox: TypeAlias = "queue.SimpleQueue[Decoding | None]"


class WorkerThreads:
    """A bounded number of worker threads. A thread starts when it is needed, and ends with :meth:`close`.

    Work goes to the thread that was busy last: an engine's threads look for more where they have just been.

    Args:
        count: pieces of work that may be in progress at a time.
        name: for the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._idle: list[Inbox] = []
        self._threads: list[tuple[threading.Thread, Inbox]] = []
        self._name = name

    def submit(self, work: Decoding) -> None:
        """Has ``work`` done in one of the threads; waits while all are busy, so that the server gathers what comes
        meanwhile. ``work`` must not raise."""
        self._free.acquire()
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = self._start()
        inbox.put(work)

    def close(self) -> None:
        """Ends the threads once they have done what was submitted."""
        for _, inbox in self._threads:
            inbox.put(None)
        for thread, _ in self._threads:
            thread.join()

    def _start(self) -> Inbox:
        inbox: Inbox = queue.SimpleQueue()
        thread = threading.Thread(target=self._run, args=(inbox,), name=f"{self._name} worker", daemon=True)
        thread.start()
        self._threads.append((thread, inbox))
        return inbox

    def _run(self, inbox: Inbox) -> None:
        while (work := inbox.get()) is not None:
            try:
                work()
            finally:
                del work
                self._idle.append(inbox)  # before the semaphore lets in a caller that looks for it
                self._free.release()
