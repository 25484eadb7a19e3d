"""A prepared model that answers: its executables are opened, and workers are asked for everything else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from tnn_serving.analysis import Analysis
from tnn_serving.emit.limits import Limits
from tnn_serving.engines import ENGINES, Executable, NodeTime, Shapes, TensorSpec
from tnn_serving.engines.base import NO_ARRAYS, Arrays
from tnn_serving.engines.cpu import available_cores
from tnn_serving.engines.shapes import NO_SHAPES, ShapeCache, ShapeLimits
from tnn_serving.errors import EngineError
from tnn_serving.guards.executable import restore_guarded
from tnn_serving.prepare.prepared import Prepared
from tnn_serving.session import Session

log = logging.getLogger(__name__)

ReadExecutable = Callable[[int], bytes]
"""Gives an executable of a prepared model by its number. Raises EngineError if it is gone."""


@dataclass(frozen=True, slots=True)
class ShapeMemory:
    """What a network needs at shapes that it takes."""

    memory_bytes: int


class Questions(Protocol):
    """Asks workers about one prepared model.

    Attributes:
        memory_bytes: what the network may need at one shape.
    """

    @property
    def memory_bytes(self) -> int: ...

    def compiled(self, outputs: Sequence[str], fed: Sequence[str], shapes: Shapes | None, streams: int) -> bytes | None:
        """The network, compiled for more than it was prepared for; ``None`` if the engine is as good without.

        Raises EngineError: the engine cannot. LimitError: it takes too much time or memory.
        """

    def memory_at(self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays) -> int:
        """The memory in bytes that the network needs at other shapes. Raises ShapeError, LimitError."""


class _OnceAtHand:
    """Reads what a worker has compiled; from the second time on, has it compiled again."""

    def __init__(self, first: bytes, ask: Callable[[], bytes | None]) -> None:
        self._first: bytes | None = first
        self._ask = ask

    def __call__(self) -> bytes:
        """The executable. Raises EngineError."""
        content, self._first = self._first or self._ask(), None
        if content is None:
            raise EngineError("the network does not compile any more as it did")
        return content


class PreparedNetwork:
    """What is behind a prepared session: it says which shapes the network takes, and compiles it for more.

    It does not know the session, which is gone with its last user.

    Args:
        prepared: what is known of it.
        analysis: of the network.
        stored: its executables.
        questions: asks workers.
    """

    def __init__(self, prepared: Prepared, analysis: Analysis, stored: ReadExecutable, questions: Questions) -> None:
        self.prepared = prepared
        self.analysis = analysis
        self._stored = stored
        self._questions = questions
        self._engine = ENGINES[prepared.choice.engine]

    @property
    def limits(self) -> Limits:
        """What the network may use of memory at each shape."""
        return Limits(self._questions.memory_bytes)

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> ShapeMemory:
        """Asks a worker whether the network takes other shapes. Raises ShapeError, LimitError, EngineError."""
        return ShapeMemory(self._questions.memory_at(shapes, fed, values))

    def executable(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> Executable:
        """The network with free shapes: as it was prepared, or else compiled by a worker. Raises EngineError."""
        more = partial(self._compiled, outputs, fed)
        if (outputs, fed) == (self.prepared.served, ()):
            return PreparedExecutable(self._restored(partial(self._stored, 0)), more)
        made = more(None, 0)
        if made is None:
            raise EngineError(f"{self.prepared.choice.engine} compiles nothing")
        return PreparedExecutable(made, more)

    def _compiled(
        self, outputs: tuple[str, ...], fed: tuple[str, ...], shapes: Shapes | None, streams: int
    ) -> Executable | None:
        known = self.prepared.shapes
        if shapes in known and not streams and (outputs, fed) == (self.prepared.served, ()):
            return self._restored(partial(self._stored, 1 + known.index(dict(shapes or {}))))
        ask = partial(self._questions.compiled, outputs, fed, shapes, streams)
        first = ask()
        return None if first is None else self._restored(_OnceAtHand(first, ask))

    def _restored(self, exported: Callable[[], bytes]) -> Executable:
        return restore_guarded(self._engine, exported, self.prepared.options)


class PreparedExecutable(Executable):
    """An executable of a prepared model.

    Args:
        opened: what runs.
        more: compiles the same network again: for single shapes, for a number of concurrent inferences, or for both.
        shapes: those that it was compiled for; ``None`` for any.
    """

    def __init__(
        self,
        opened: Executable,
        more: Callable[[Shapes | None, int], Executable | None],
        shapes: Shapes | None = None,
    ) -> None:
        self.engine = opened.engine
        self.run = opened.run  # type: ignore[method-assign]  # one call less per request
        self._opened = opened
        self._more = more
        self._shapes = shapes

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self._opened.outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference. Raises EngineError."""
        return self._opened.run(feeds, into)

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node. Raises EngineError."""
        return self._opened.profile(feeds, runs)

    def at(self, shapes: Shapes) -> Executable | None:
        """The same network compiled for inputs of these shapes. Raises EngineError."""
        made = self._more(shapes, 0)
        return None if made is None else PreparedExecutable(made, self._more, shapes)

    def concurrent(self, streams: int) -> Executable | None:
        """The same network compiled for so many concurrent inferences. Raises EngineError."""
        return self._more(self._shapes, streams)


class PreparedSession(Session):
    """A prepared model.

    Args:
        network: what is behind it.
        limits: single shapes that may be compiled for.
    """

    def __init__(self, network: PreparedNetwork, limits: ShapeLimits) -> None:
        prepared = network.prepared
        super().__init__(network.analysis, prepared.served, prepared.sizes)
        self.choice = prepared.choice
        self.sized = prepared.values()
        self._network = network
        self._limits = limits if prepared.specialises else NO_SHAPES
        cache = self._compile_for(prepared.served, ())
        self._opened(network, cache)
        for shapes, memory_bytes in zip(prepared.shapes, prepared.needs, strict=True):
            if memory_bytes is not None:
                self._admission.admit(shapes, memory_bytes)
            cache.warm(shapes)

    @property
    def int8_form(self) -> str:
        """How int8 layers are run; "none" where there are none."""
        return self._network.prepared.int8

    def _compile_for(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
        options = self._network.prepared.options
        streams = (options.threads or available_cores().count) if options.concurrent else 1
        general = self._network.executable(outputs, fed)
        inputs = self._inputs_of(fed)
        return ShapeCache(general, inputs, self._limits, self.analysis.weight_bytes, streams, self.sized)
