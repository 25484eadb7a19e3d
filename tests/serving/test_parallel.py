"""Work on several items at once."""

from __future__ import annotations

import os
import threading

import pytest

from tnn_serving.serving.parallel import parallel_map


def test_results_come_in_order() -> None:
    assert parallel_map(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert parallel_map(str, []) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing runs at the same time")
def test_two_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2)
    assert sorted(parallel_map(lambda _: both.wait(20), range(2))) == [0, 1]


def test_an_error_is_raised_when_everything_is_done() -> None:
    done: list[int] = []

    def work(n: int) -> None:
        if n in (1, 3):
            raise ValueError(f"item {n}")
        done.append(n)

    with pytest.raises(ValueError, match="item 1"):
        parallel_map(work, range(40))
    assert sorted(done) == [n for n in range(40) if n not in (1, 3)]


def test_work_may_be_divided_again() -> None:
    """With threads waiting for threads, 40 items on a few of them would never end."""
    rows = parallel_map(lambda n: sum(parallel_map(lambda m: n * m, range(10))), range(40))
    assert rows == [45 * n for n in range(40)]


def test_a_single_item_needs_no_thread() -> None:
    assert parallel_map(lambda _: threading.current_thread(), [0]) == [threading.current_thread()]
