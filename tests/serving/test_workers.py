"""The threads that execute requests."""

from __future__ import annotations

import threading
import time

from tnn_serving.serving.workers import WorkerThreads


def test_no_more_work_is_in_progress_than_allowed() -> None:
    workers = WorkerThreads(2, "test")
    going, most, lock, open_gate = [0], [0], threading.Lock(), threading.Event()

    def work() -> None:
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        open_gate.wait(60)
        with lock:
            going[0] -= 1

    submitted: list[int] = []

    def submit_all() -> None:
        for k in range(5):
            workers.submit(work)
            submitted.append(k)

    submitter = threading.Thread(target=submit_all)
    submitter.start()
    deadline = time.monotonic() + 60
    while going[0] < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert submitted == [0, 1]  # the third waits until a thread is free
    open_gate.set()
    submitter.join()
    workers.close()
    assert (most[0], going[0], len(submitted)) == (2, 0, 5)


def test_work_goes_to_the_worker_that_was_busy_last() -> None:
    workers = WorkerThreads(3, "test")
    gate, inside = threading.Event(), threading.Semaphore(0)
    names: list[str] = []

    def wait() -> None:
        inside.release()
        gate.wait(60)

    def settle() -> None:
        deadline = time.monotonic() + 60
        while len(workers._idle) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)

    for _ in range(3):  # all three have been busy
        workers.submit(wait)
    for _ in range(3):
        assert inside.acquire(timeout=60)
    gate.set()
    settle()
    for _ in range(20):
        workers.submit(lambda: names.append(threading.current_thread().name + str(threading.get_ident())))
        settle()
    workers.close()
    assert len(names) == 20
    assert len(set(names)) == 1
