"""Gives memory that models leave behind back to the system."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Frees what only cycles of references still hold, and has the C library return what is free.

    glibc keeps freed memory in the arena of the thread that took it. Each load runs in another thread of the server,
    and engines pack weights in blocks of all sizes, so that without this a server whose models come and go keeps about
    as much again as they took.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; other C libraries give back by themselves
    if trim is not None:
        trim(0)
