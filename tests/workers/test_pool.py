"""Workers: what they may do, what ends them, and that the process that asks goes on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tnn_serving.errors import FormatError, LimitError, TnnError
from tnn_serving.workers import pool
from tnn_serving.workers.confinement import Confinement
from tnn_serving.workers.messages import MESSAGE_MAX_BYTES
from tnn_serving.workers.pool import NICENESS, Workers

pytestmark = pytest.mark.slow

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    made = Workers(["tests.workers.tasks"], count=2, idle_s=None)
    yield made
    made.close()


def run(workers: Workers, task: str, confinement: Confinement | None = None, **arguments: Any) -> Any:
    name = f"tests.workers.tasks:{task}"
    return workers.run(name, arguments, confinement=confinement or Confinement(), timeout_s=DEADLINE_S).value


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + DEADLINE_S
    while exists(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.01)


def test_a_result_comes_back(workers: Workers) -> None:
    value = {"numbers": [1, 2.5, None], "text": "Grüße"}
    assert run(workers, "echo", value=value) == value


def test_arguments_and_results_may_be_larger_than_a_packet(workers: Workers) -> None:
    value = ["Grüße"] * 100_000
    assert run(workers, "echo", value=value) == value


def test_a_result_that_is_too_large_is_an_error(workers: Workers) -> None:
    with pytest.raises(LimitError, match="message between processes is too large"):
        run(workers, "repeat", count=MESSAGE_MAX_BYTES)
    with pytest.raises(LimitError, match="message between processes is too large"):
        run(workers, "echo", value="0" * MESSAGE_MAX_BYTES)
    assert run(workers, "echo", value=1) == 1


def test_each_task_has_a_process_of_its_own_forked_from_one(workers: Workers) -> None:
    (first, parent), (second, same) = run(workers, "pid"), run(workers, "pid")
    assert first != second
    assert parent == same != os.getpid()


def test_tasks_run_side_by_side(workers: Workers) -> None:
    with ThreadPoolExecutor(8) as threads:
        values = list(threads.map(lambda k: run(workers, "echo", value=k), range(40)))
    assert values == list(range(40))


def test_log_records_come_back(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    run(workers, "log", value="50 %")
    assert ("tnn_serving.somewhere", 30, "heard: 50 %") in caplog.record_tuples


def test_an_error_keeps_its_class_place_and_facts(workers: Workers) -> None:
    with pytest.raises(FormatError) as caught:
        run(workers, "refuse")
    error = caught.value
    assert (error.where, error.problem, error.expected, error.found, error.hint) == (
        ("a file", "layer 3"),
        "is broken",
        "4",
        "5",
        "mend it",
    )


def test_an_error_that_is_not_ours_is_named(workers: Workers) -> None:
    with pytest.raises(TnnError, match="a worker failed: ZeroDivisionError: by nothing"):
        run(workers, "fail")


def test_a_crash_is_named_by_its_signal(workers: Workers) -> None:
    with pytest.raises(TnnError, match="ended by a signal: found SIGSEGV"):
        run(workers, "crash")
    assert run(workers, "echo", value=1) == 1


def test_an_end_without_a_result_is_named(workers: Workers) -> None:
    with pytest.raises(TnnError, match="without a result: found exit code 3"):
        run(workers, "leave")


@pytest.mark.parametrize("task", ["hang", "spin"])
def test_time_is_limited_whatever_the_worker_does(workers: Workers, task: str) -> None:
    with pytest.raises(LimitError, match=r"takes too long: expected at most 0.5 s"):
        workers.run(f"tests.workers.tasks:{task}", {}, confinement=Confinement(), timeout_s=0.5)


def test_tasks_that_end_when_their_time_is_over(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its result or is out of time: the end of one is never taken for the end of another."""
    monkeypatch.setattr(pool, "LOOK_EVERY_S", 0.002)
    name = "tests.workers.tasks:nap"

    def nap(number: int) -> str:
        try:
            arguments = {"seconds": 0.042 + number % 50 * 0.0004}
            workers.run(name, arguments, confinement=Confinement(), timeout_s=0.05)
        except LimitError:
            return "out of time"
        return "done"

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(nap, range(400))) <= {"out of time", "done"}


def test_memory_is_limited(workers: Workers) -> None:
    limited = Confinement(memory_bytes=64 << 20)
    assert run(workers, "allocate", limited, size=1 << 20) == 1 << 20
    with pytest.raises(LimitError, match="too much memory"):
        run(workers, "allocate", limited, size=256 << 20)


def test_files_are_those_that_were_allowed(workers: Workers, tmp_path: Path) -> None:
    for name in ("reads", "writes", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    confined = Confinement((tmp_path / "reads",), (tmp_path / "writes",), file_bytes=1 << 20)
    assert run(workers, "read", confined, path=str(tmp_path / "reads" / "file")) == "reads"
    run(workers, "write", confined, path=str(tmp_path / "writes" / "made"), size=10)
    assert (tmp_path / "writes" / "made").read_bytes() == b"0" * 10
    for task, path, size in (
        ("read", "others/file", 0),
        ("write", "reads/made", 1),
        ("write", "writes/large", 2 << 20),
    ):
        with pytest.raises(TnnError, match=r"Permission denied|File too large"):
            run(workers, task, confined, path=str(tmp_path / path), size=size)
    (tmp_path / "reads" / "link").symlink_to(tmp_path / "others" / "file")
    with pytest.raises(TnnError, match="Permission denied"):
        run(workers, "read", confined, path=str(tmp_path / "reads" / "link"))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_there_is_no_network(workers: Workers, kind: int) -> None:
    with pytest.raises(TnnError, match="PermissionError"):
        run(workers, "connect", kind=int(kind))


def test_no_program_is_started(workers: Workers) -> None:
    with pytest.raises(TnnError, match="PermissionError"):
        run(workers, "execute")


def test_what_is_in_force_is_told(workers: Workers) -> None:
    outcome = workers.run(
        "tests.workers.tasks:echo", {"value": 0}, confinement=Confinement(memory_bytes=1 << 30), timeout_s=DEADLINE_S
    )
    assert "memory limit" in outcome.in_force
    assert "seccomp" in outcome.in_force


def test_a_task_may_let_other_processes_go_first(workers: Workers) -> None:
    def niceness(*, yields: bool) -> Any:
        task = "tests.workers.tasks:niceness"
        confinement = Confinement((Path("/proc"),))
        return workers.run(task, {}, confinement=confinement, timeout_s=DEADLINE_S, yields=yields).value

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(yields=True) == [min(19, own + NICENESS), f"nice {NICENESS}" if grouped_by_session() else ""]
    assert niceness(yields=False) == [own, "nice 0" if grouped_by_session() else ""]


def grouped_by_session() -> bool:
    return Path("/proc/self/autogroup").exists()


def test_what_a_worker_started_ends_with_it(workers: Workers) -> None:
    wait_until_gone(run(workers, "leave_a_child"))


def test_a_warm_process_that_was_ended_is_started_again(workers: Workers) -> None:
    _, warm = run(workers, "pid")
    os.kill(warm, signal.SIGKILL)
    wait_until_gone(warm)
    _, again = run(workers, "pid")
    assert again != warm


def test_a_task_whose_warm_process_was_ended_is_run_again(workers: Workers, tmp_path: Path) -> None:
    """Another task lost its process too; both are run again by one new process."""
    _, warm = run(workers, "pid")
    with ThreadPoolExecutor(2) as threads:
        paths = [tmp_path / name for name in "ab"]
        writes = Confinement(writes=(tmp_path,))
        waiting = [threads.submit(run, workers, "second_time", writes, path=str(path)) for path in paths]
        end = time.monotonic() + DEADLINE_S
        while not all(path.exists() for path in paths):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(warm, signal.SIGKILL)
        first, second = (future.result(DEADLINE_S) for future in waiting)
    assert first == second != warm


def test_the_warm_process_ends_when_it_is_idle() -> None:
    idle = Workers(["tests.workers.tasks"], count=1, idle_s=0.1)
    _, warm = run(idle, "pid")
    wait_until_gone(warm)
    assert run(idle, "echo", value=2) == 2
    idle.close()


def test_closing_ends_what_runs() -> None:
    closing = Workers(["tests.workers.tasks"], count=1, idle_s=None)
    errors: list[TnnError] = []

    def spin() -> None:
        try:
            run(closing, "spin")
        except TnnError as error:
            errors.append(error)

    _, warm = run(closing, "pid")
    thread = threading.Thread(target=spin)
    thread.start()
    while not Path(f"/proc/{warm}/task/{warm}/children").read_text().split():
        time.sleep(0.01)
    closing.close()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert len(errors) == 1
