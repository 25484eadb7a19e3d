"""Executables of any engine with a model's guards around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tnn_serving.engines.base import Arrays, Engine, Executable, NodeTime, Options, Shapes, TensorSpec
from tnn_serving.errors import EngineError
from tnn_serving.guards.checks import GUARDS, NO_CHECKS, Checks

if TYPE_CHECKING:
    import onnx

LENGTH_BYTES = 4
"""What an exported executable begins with: the length of its checks as JSON, little-endian."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A model with its guards.

    Attributes:
        model: with :data:`~tnn_serving.guards.checks.GUARDS` as its last output, if it has guards in the graph.
        checks: what has to be looked at in each inference.
    """

    model: onnx.ModelProto
    checks: Checks = NO_CHECKS


def compile_guarded(engine: Engine, guarded: Guarded, options: Options) -> Executable:
    """Compiles a guarded model. Raises EngineError as :meth:`Engine.compile`, and for an engine that is not safe."""
    unguarded = guarded.checks.unguarded
    if unguarded and not engine.checks_indices:
        raise EngineError(
            f"{unguarded}: {engine.title} does not refuse what is out of range, and the node cannot be guarded",
            hint="ONNX Runtime runs the network",
        )
    return _around(engine.compile(guarded.model, options), guarded.checks)


def export_guarded(executable: Executable, guarded: Guarded) -> bytes:
    """What :func:`restore_guarded` opens in another process on this machine. Raises EngineError."""
    checks = guarded.checks.to_json() if guarded.checks else b""
    return len(checks).to_bytes(LENGTH_BYTES, "little") + checks + executable.export(guarded.model)


def restore_guarded(engine: Engine, exported: Callable[[], bytes], options: Options) -> Executable:
    """Opens what :func:`export_guarded` wrote. Raises EngineError as :meth:`Engine.restore`."""
    content = exported()
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    begin = LENGTH_BYTES + length
    checks = Checks.from_json(content[LENGTH_BYTES:begin]) if length else NO_CHECKS
    first: list[bytes] = [content[begin:]]
    del content

    def read() -> bytes:
        return first.pop() if first else exported()[begin:]

    return _around(engine.restore(read, options), checks)


def _around(executable: Executable, checks: Checks) -> Executable:
    return GuardedExecutable(executable, checks) if checks else executable


class GuardedExecutable(Executable):
    """An executable that refuses requests whose indices, lengths or sizes are out of range.

    Args:
        executable: of the guarded model.
        checks: of it.
    """

    def __init__(self, executable: Executable, checks: Checks) -> None:
        self.engine = executable.engine
        self._executable = executable
        self._checks = checks
        self._outputs = [spec for spec in executable.outputs if spec.name != GUARDS]

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model, without that of the guards."""
        return self._outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference. Raises RequestError for what is out of range, and as the executable's own."""
        self._checks.check_inputs(feeds)
        answer = self._executable.run(feeds, into)
        if self._checks.behind:
            self._checks.check_answer(answer.pop(GUARDS))
        return answer

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node, those of the guards included. Raises RequestError, EngineError."""
        self._checks.check_inputs(feeds)
        return self._executable.profile(feeds, runs)

    def export(self, model: onnx.ModelProto) -> bytes:
        """As the executable's own, without the checks: see :func:`export_guarded`."""
        return self._executable.export(model)

    def at(self, shapes: Shapes) -> Executable | None:
        """The same network for inputs of these shapes. Raises EngineError."""
        made = self._executable.at(shapes)
        return None if made is None else GuardedExecutable(made, self._checks)

    def concurrent(self, streams: int) -> Executable | None:
        """The same network for concurrent inferences. Raises EngineError."""
        made = self._executable.concurrent(streams)
        return None if made is None else GuardedExecutable(made, self._checks)
