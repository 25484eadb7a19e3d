"""A few threads, shared by all models, for work that does not hold the interpreter lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from tnn_serving.engines.cpu import available_cores

S = TypeVar("S")
T = TypeVar("T")

_here = threading.local()


def parallel_map(action: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """``action`` on each item, as many at a time as the process has cores; the results in order.

    It returns when all of them are done, even if one fails: items may be in memory that is given back then. Called
    from inside an action, it works one by one, so that the threads never wait for each other.

    Raises:
        The error of the first item that has one.
    """
    if len(items) < 2 or getattr(_here, "is_worker", False):
        return [action(item) for item in items]
    futures = [_pool().submit(action, item) for item in items]
    wait(futures)
    return [future.result() for future in futures]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_cores().count, thread_name_prefix="pictures", initializer=_enter)


def _enter() -> None:
    _here.is_worker = True
