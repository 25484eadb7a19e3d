"""All threads for one inference while few come, one thread for each while many do.

Alone, an inference is done soonest on all threads. Where others wait anyway, each on a thread of its own is the better
use of the cores: threads that share an inference wait for each other at the end of every layer.
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

COMPILE_AFTER = 32
"""How many inferences must have met enough others before the network is compiled for many."""


QUIET_AFTER = 8
"""How many inferences in a row must have met too few others before the next ones get all threads again: beside others,
one on all threads waits for each of them, and takes longest."""


class Elastic:
    """Inferences of one executable, which may run side by side.

    Args:
        alone: runs one inference on all threads.
        streams: how many may run side by side: while fewer do, ``alone`` takes them.
        for_many: compiles the same network for so many, a thread each; called in the background, if ever.
    """

    def __init__(self, alone: Executable, streams: int, for_many: Callable[[], Executable | None]) -> None:
        self._alone = alone
        self._many: Executable | None = None
        self._streams = streams
        self._for_many = for_many
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
            executable = self._alone if self._many is None or self._quiet >= QUIET_AFTER else self._many
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
        if self._met < COMPILE_AFTER:
            self._met += 1
            if self._met == COMPILE_AFTER:
                me = weakref.ref(self)
                BACKGROUND.submit(lambda: _compile(me))


def _compile(elastic: weakref.ref[Elastic]) -> None:
    held = elastic()
    if held is None:
        return
    try:
        held._many = held._for_many()
    except EngineError as error:
        log.info("no executable for inferences side by side: %s", error)
