"""An executable for every shape, and a bounded number of faster ones for single shapes.

Engines are slower with free shapes than with fixed ones. A shape that comes again and again is compiled for in the
background, while the general executable goes on answering.
"""

from __future__ import annotations

import logging
import math
import resource
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tnn_serving.engines.background import BACKGROUND
from tnn_serving.engines.base import Arrays, Executable, NodeTime, Shapes, TensorSpec
from tnn_serving.engines.concurrency import ConcurrentExecutable
from tnn_serving.errors import EngineError, RequestError

log = logging.getLogger(__name__)

COMPILE_AFTER = 3
"""How often a shape must come before it is compiled for."""

REMEMBERED = 4096
"""Shapes whose number of appearances is remembered; when there are more, all numbers are halved and zeros forgotten."""

LARGE_BYTES = 64 * 1024
"""Outputs from this size on are worth being computed straight into the caller's memory."""

Allocate = Callable[[TensorSpec], np.ndarray | None]
"""Gives memory of an output's type and shape, or ``None`` if the caller does not want that output."""

Key = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """How many input shapes get an executable of their own, and the total memory for these executables, in bytes."""

    count: int = 16
    memory_bytes: int = 1 << 30


NO_SHAPES = ShapeLimits(0, 0)
"""No shape gets an executable of its own."""


@dataclass(slots=True)
class ShapeCounts:
    """Inferences answered by an executable of their own shape, and by the general one; shapes compiled for, and an
    estimate of what these compilations take."""

    hits: int = 0
    misses: int = 0
    size: int = 0
    memory_bytes: int = 0


@dataclass(slots=True)
class _Entry:
    executable: Executable | ConcurrentExecutable
    alone: Executable
    large: tuple[TensorSpec, ...]
    memory_bytes: int
    pinned: bool
    hits: int = 0
    used: int = 0


@dataclass(slots=True)
class _State:
    """What the background shares with the inferences; changed under ``lock``, looked at without."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[Key, _Entry] = field(default_factory=dict)
    seen: dict[Key, int] = field(default_factory=dict)
    asked: set[Key] = field(default_factory=set)


class ShapeCache:
    """An executable that answers any shape its network takes; the usual ones faster.

    Args:
        general: the network with free shapes.
        inputs: names and types of its inputs.
        limits: a ``count`` of 0 compiles for no single shape but those given to :meth:`warm`.
        weight_bytes: what one compilation takes at least.
        streams: single shapes are compiled for so many concurrent inferences as well, where these meet.
        samples: what inputs may hold in the first inference of an executable, where zeros are not likely to be taken.
    """

    def __init__(
        self,
        general: Executable,
        inputs: Sequence[TensorSpec],
        limits: ShapeLimits,
        weight_bytes: int,
        streams: int = 1,
        samples: Arrays | None = None,
    ) -> None:
        self.general = general
        self.counts = ShapeCounts()
        self._inputs = list(inputs)
        self._names = [spec.name for spec in inputs]
        self._limits = limits
        self._weight_bytes = weight_bytes
        self._streams = streams
        self._samples = dict(samples or {})
        self._state = _State()
        self._clock = 0

    @property
    def engine(self) -> str:
        """Name of the engine that compiled it."""
        return self.general.engine

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self.general.outputs

    @property
    def memory_bytes(self) -> int:
        """An estimate of what the compilations for single shapes take."""
        return sum(entry.memory_bytes for entry in list(self._state.entries.values()))

    def run(self, feeds: Arrays, allocate: Allocate | None = None) -> dict[str, np.ndarray]:
        """One inference, as :meth:`Executable.run`.

        Args:
            allocate: asked for memory to write large outputs into, where their shape is known beforehand.
        """
        entry = self._state.entries.get(self._key(feeds))
        if entry is None:
            self._missed(feeds)
            return self.general.run(feeds)
        self.counts.hits += 1
        self._clock += 1
        entry.hits += 1
        entry.used = self._clock
        if allocate is None or not entry.large:
            return entry.executable.run(feeds)
        offered = {spec.name: allocate(spec) for spec in entry.large}
        return entry.executable.run(feeds, {name: array for name, array in offered.items() if array is not None})

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node, of the executable that :meth:`run` takes."""
        entry = self._state.entries.get(self._key(feeds))
        return (self.general if entry is None else entry.executable).profile(feeds, runs)

    def warm(self, shapes: Shapes) -> None:
        """Compiles for these shapes now and runs once; they stay. Raises EngineError if the engine fails."""
        key = tuple(tuple(shapes[name]) for name in self._names)
        entry = self._state.entries.get(key)
        if entry is None:
            self._compile(key, pinned=True)
        else:
            entry.pinned = True

    @property
    def specialises(self) -> bool:
        """Whether single shapes are compiled for: asked for, and of use on this engine as far as is known."""
        return self._limits.count > 0

    def kept(self) -> list[tuple[Shapes, Executable]]:
        """The shapes that stay compiled for, each with what one inference alone runs on."""
        entries = self._state.entries.items()
        return [(dict(zip(self._names, key, strict=True)), entry.alone) for key, entry in entries if entry.pinned]

    def fixed(self, feeds: Arrays) -> Executable:
        """What one inference of these shapes runs on once they are compiled for; it is not kept for them."""
        key = self._key(feeds)
        entry = self._state.entries.get(key)
        if entry is not None:
            return entry.alone
        made = self.general.at(dict(zip(self._names, key, strict=True))) if self._limits.count else None
        return made or self.general

    def concurrent(self, feeds: Arrays) -> tuple[Executable, int] | None:
        """What concurrent inferences of these shapes run on, and how many; as :meth:`fixed`.

        ``None`` if they run on what one alone does.
        """
        if self._streams < 2 or not self._limits.count:
            return None
        many = self.fixed(feeds).concurrent(self._streams)
        return None if many is None else (many, self._streams)

    def _key(self, feeds: Arrays) -> Key:
        return tuple([feeds[name].shape for name in self._names])

    def _missed(self, feeds: Arrays) -> None:
        self.counts.misses += 1
        if not self._limits.count:
            return
        key, state = self._key(feeds), self._state
        with state.lock:
            seen = state.seen[key] = state.seen.get(key, 0) + 1
            if len(state.seen) > REMEMBERED:
                self._forget()
            if seen < COMPILE_AFTER or key in state.asked or not self._is_worth_it(seen):
                return
            state.asked.add(key)
        me = weakref.ref(self)
        BACKGROUND.submit(lambda: _compile_for(me, key))

    def _is_worth_it(self, seen: int) -> bool:
        """A full cache takes a shape in only if it comes much more often than the one that would have to go."""
        entries = self._state.entries
        if len(entries) < self._limits.count:
            return True
        coldest = self._coldest()
        return coldest is not None and seen > 2 * entries[coldest].hits

    def _forget(self) -> None:
        state = self._state
        state.seen = {key: count // 2 for key, count in state.seen.items() if count > 1}
        state.asked &= state.seen.keys() | state.entries.keys()
        for entry in state.entries.values():
            entry.hits //= 2

    def _coldest(self) -> Key | None:
        loose = [(entry.used, key) for key, entry in self._state.entries.items() if not entry.pinned]
        return min(loose)[1] if loose else None

    def _compile(self, key: Key, *, pinned: bool) -> None:
        made, taken = self._started(key, lambda: self.general.at(dict(zip(self._names, key, strict=True))))
        if made is None:
            self._limits = NO_SHAPES
            return
        executable: Executable | ConcurrentExecutable = made
        if self._streams > 1:
            executable = ConcurrentExecutable(
                made, self._streams, partial(_compile_concurrent, weakref.ref(self), key, made)
            )
        with self._state.lock:
            self._clock += 1
            large = tuple(spec for spec in made.outputs if _bytes(spec) >= LARGE_BYTES)
            self._state.entries[key] = _Entry(executable, made, large, taken, pinned, used=self._clock)
            self._make_room(key)

    def _compile_concurrent(self, key: Key, alone: Executable) -> Executable | None:
        """The executable of a shape once more, for concurrent inferences, if there is memory for it."""
        if self.memory_bytes + self._weight_bytes > self._limits.memory_bytes:
            return None
        made, taken = self._started(key, lambda: alone.concurrent(self._streams))
        with self._state.lock:
            entry = self._state.entries.get(key)
            if made is not None and entry is not None:
                entry.memory_bytes += taken
                self._make_room(key)
        return made

    def _started(self, key: Key, compile: Callable[[], Executable | None]) -> tuple[Executable | None, int]:
        """What was compiled for a shape, run once, and the bytes that it takes."""
        before = _resident_bytes()
        made = compile()
        if made is not None:
            # The first inference is the slow one: weights are packed, memory is taken.
            feeds = zeros(self._inputs, dict(zip(self._names, key, strict=True)))
            known = {name: array for name, array in self._samples.items() if array.shape == feeds[name].shape}
            with suppress(RequestError):  # values that the network refuses are no fault of it
                made.run({**feeds, **known})
        return made, max(_resident_bytes() - before, self._weight_bytes)

    def _make_room(self, fresh: Key) -> None:
        self._remove_coldest(fresh)
        self.counts.size = len(self._state.entries)
        self.counts.memory_bytes = self.memory_bytes

    def _remove_coldest(self, fresh: Key) -> None:
        entries = self._state.entries
        while len(entries) > max(1, self._limits.count) or self.memory_bytes > self._limits.memory_bytes:
            coldest = self._coldest()
            if coldest is None:
                return
            del entries[coldest]
            if coldest == fresh:  # larger than all that is allowed: it is not asked for again
                return
            self._state.asked.discard(coldest)
            self._state.seen.pop(coldest, None)


def _compile_for(cache: weakref.ref[ShapeCache], key: Key) -> None:
    held = cache()
    if held is None:
        return
    try:
        held._compile(key, pinned=False)
    except EngineError as error:
        log.info("no executable for %s: %s", [list(shape) for shape in key], error)


def _compile_concurrent(cache: weakref.ref[ShapeCache], key: Key, alone: Executable) -> Executable | None:
    held = cache()
    return None if held is None else held._compile_concurrent(key, alone)


def _bytes(spec: TensorSpec) -> int:
    """Size of an output; 0 if it depends on the data."""
    return math.prod(dim or 0 for dim in spec.shape) * spec.dtype.itemsize


def _resident_bytes() -> int:
    """Memory of this process; an estimate of what a compilation takes is the difference."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def placeholders(inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Arrays of given shapes that take no memory, to ask about sizes with."""
    return {spec.name: np.broadcast_to(spec.dtype.type(0), tuple(shapes[spec.name])) for spec in inputs}


def zeros(inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Inputs of given shapes that hold nothing but zeros."""
    return {spec.name: np.zeros(tuple(shapes[spec.name]), spec.dtype) for spec in inputs}
