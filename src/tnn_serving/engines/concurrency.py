"""All threads for one inference while few run, one thread per inference while many do.

Alone, an inference is done soonest on all threads. Where others wait anyway, one thread for each is the better use of
the cores: threads that share an inference wait for each other at the end of every layer.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

import numpy as np

from tnn_serving.engines.background import BACKGROUND
from tnn_serving.engines.base import Arrays, Executable, NodeTime
from tnn_serving.errors import EngineError

log = logging.getLogger(__name__)

ADD_AFTER = 32
"""How many inferences must have met enough others before the network is compiled for concurrent ones."""

QUIET_AFTER = 8
"""How many inferences in a row must have met too few others before the next ones get all threads again: beside others,
one on all threads waits for each of them, and takes longest."""


class ConcurrentExecutable:
    """An executable for one inference at a time, and another one for the times when several meet.

    Args:
        alone: runs one inference on all threads.
        streams: how many inferences may be concurrent: while fewer are, ``alone`` takes them.
        compile: compiles the same network for so many, one thread each; called in the background, if ever.
    """

    def __init__(self, alone: Executable, streams: int, compile: Callable[[], Executable | None]) -> None:
        self._alone = alone
        self._concurrent: Executable | None = None
        self._streams = streams
        self._compile = compile
        self._lock = threading.Lock()
        self._running = 0
        self._met = 0
        self._quiet = QUIET_AFTER

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference, on the executable that suits how many are running. Raises EngineError."""
        with self._lock:
            if self._running >= self._streams - 1:
                self._meet()
            else:
                self._quiet += 1
            executable = self._alone
            if self._concurrent is not None and self._quiet < QUIET_AFTER:
                executable = self._concurrent
            self._running += 1
        try:
            return executable.run(feeds, into)
        finally:
            with self._lock:
                self._running -= 1

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node of an inference that is alone. Raises EngineError."""
        return self._alone.profile(feeds, runs)

    def _meet(self) -> None:
        self._quiet = 0
        if self._met < ADD_AFTER:
            self._met += 1
            if self._met == ADD_AFTER:
                me = weakref.ref(self)
                BACKGROUND.submit(lambda: _compile(me))


def _compile(executable: weakref.ref[ConcurrentExecutable]) -> None:
    held = executable()
    if held is None:
        return
    try:
        held._concurrent = held._compile()
    except EngineError as error:
        log.info("no executable for concurrent inferences: %s", error)
