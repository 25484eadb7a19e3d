"""An engine whose C code may keep the interpreter lock for good, as a faulty extension does."""

from __future__ import annotations

import importlib
import threading
import time

import numpy as np
import onnx

from tests.engines.third_party.onnx_reference_engine import ReferenceEngine, ReferenceExecutable
from tnn_serving.engines import Options

DURING = 4321.0
"""An input that begins with this number is never answered."""
AFTERWARDS = 1234.0
"""One that begins with this is answered, and a thread then keeps the lock."""


class StuckEngine(ReferenceEngine):
    """The reference evaluator, with a flaw."""

    name = "stuck"

    def compile(self, model: onnx.ModelProto, options: Options) -> StuckExecutable:
        return StuckExecutable(model)


class StuckExecutable(ReferenceExecutable):
    """A model that gets stuck when its input says so."""

    engine = StuckEngine.name

    def run(self, feeds: dict[str, np.ndarray], into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        first = {array.flat[0] for array in feeds.values() if array.size}
        if DURING in first:
            keep_lock(0)
        if AFTERWARDS in first:
            threading.Thread(target=keep_lock, args=[1.0], daemon=True).start()
        return super().run(feeds, into)


def keep_lock(delay_s: float) -> None:
    """Never returns."""
    time.sleep(delay_s)
    importlib.import_module("keep_lock").for_good()
