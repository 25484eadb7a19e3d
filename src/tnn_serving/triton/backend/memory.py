"""Has the C library give memory that models leave behind back to the system."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

APART_FROM_BYTES = 128 * 1024
"""Blocks from this size on get mappings of their own while models are loaded: what glibc begins with."""

POOLED_UP_TO_BYTES = 4 * 1024 * 1024
"""Blocks up to this size, which tensors of requests mostly have, come from glibc's pools otherwise."""

_C: Any = ctypes.CDLL(None)
_glibc = hasattr(_C, "mallopt") and hasattr(_C, "malloc_trim")  # other C libraries give back by themselves
_lock = threading.Lock()
_loading = 0


@contextmanager
def in_own_mappings() -> Iterator[None]:
    """Large blocks that are taken meanwhile go back to the system as soon as they are freed.

    glibc maps blocks apart only until the first large one is freed; from then on it takes them from the pool of the
    thread that asks, whose end it keeps for good, up to 64 MB. Each load runs in another thread of the server: without
    this, a server whose models come and go keeps several times what one of them takes. For requests the pools are
    right: mapping a tensor anew each time costs more than filling it.
    """
    global _loading
    with _lock:
        _loading += 1
        if _loading == 1:
            _set_thresholds(APART_FROM_BYTES)
    try:
        yield
    finally:
        with _lock:
            _loading -= 1
            if not _loading:
                _set_thresholds(POOLED_UP_TO_BYTES)


def _set_thresholds(size_bytes: int) -> None:
    if _glibc:
        _C.mallopt(M_MMAP_THRESHOLD, size_bytes)
        _C.mallopt(M_TRIM_THRESHOLD, 2 * size_bytes)


def give_back() -> None:
    """Frees what only cycles of references still hold, and has the C library return what is free in its pools."""
    gc.collect()
    if _glibc:
        _C.malloc_trim(0)
