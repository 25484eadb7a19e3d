"""An engine whose inferences a test can hold: they take as long as the test wants, on a machine of any speed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from tests.engines.third_party.onnx_reference_engine import ReferenceEngine, ReferenceExecutable
from tnn_serving.engines import Options
from tnn_serving.errors import EngineError

HELD = 4321.0
"""An inference whose input begins with this number waits while the gate is closed."""

GATE_VARIABLE = "TEST_GATE"
"""Environment variable with the gate's folder."""

POLL_S = 0.01


class Gate:
    """Holds inferences of the engine, in any process that shares its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = folder / "closed"
        self._runs = folder / "runs"
        self._failing = folder / "failing"

    @contextmanager
    def closed(self) -> Iterator[None]:
        """The gate is closed meanwhile; what is held goes on afterwards."""
        self._closed.touch()
        try:
            yield
        finally:
            self._closed.unlink()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Each inference fails meanwhile."""
        self._failing.touch()
        try:
            yield
        finally:
            self._failing.unlink()

    @property
    def held(self) -> int:
        """How many inferences are held at this moment."""
        return len(list(self._folder.glob("held-*")))

    @property
    def runs(self) -> list[float]:
        """The first number of each inference so far, in their order."""
        return [float(line) for line in self._runs.read_text().split()]

    def enter(self, first: float) -> None:
        """Called by the engine before an inference with its first number; returns when it may run.

        Raises EngineError.
        """
        if self._failing.exists():
            raise EngineError("the engine refuses", found="it is broken")
        try:
            with self._runs.open("a") as runs:
                runs.write(f"{first}\n")
        except PermissionError:  # a worker measures the network, and may write to no such file
            return
        if first == HELD:
            with tempfile.NamedTemporaryFile(prefix="held-", dir=self._folder):
                while self._closed.exists():
                    time.sleep(POLL_S)


class HeldEngine(ReferenceEngine):
    """The reference evaluator behind a gate."""

    name = "held"

    def compile(self, model: onnx.ModelProto, options: Options) -> HeldExecutable:
        return HeldExecutable(model)


class HeldExecutable(ReferenceExecutable):
    """A model whose inferences pass the gate."""

    engine = HeldEngine.name

    def run(self, feeds: dict[str, np.ndarray], into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        (x,) = feeds.values()
        Gate(Path(os.environ[GATE_VARIABLE])).enter(float(x.flat[0]))
        return super().run(feeds, into)
