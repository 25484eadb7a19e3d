"""Which inputs a network takes: asked once per combination of shapes, and remembered.

Engines do not ask: some shapes that do not fit are answered with garbage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tnn_serving.analysis import Analysis
from tnn_serving.emit.limits import MAX_ELEMENTS, SAMPLE_LIMIT, Limits
from tnn_serving.engines.base import NO_ARRAYS, Arrays
from tnn_serving.errors import EngineError, RequestError, TnnError
from tnn_serving.nearest import did_you_mean, listed

REMEMBERED_SHAPES = 4096
"""Combinations of input shapes that are known to fit."""

KEPT_ANSWERED = 8
"""Combinations of input shapes of which inputs are kept that were answered, to try an engine with."""

Key = tuple[object, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Rows:
    """A number of rows that fits, and an estimate of the memory that it takes."""

    count: int
    memory_bytes: int


class ShapeNeeds(Protocol):
    """What a network needs at shapes that it takes."""

    @property
    def memory_bytes(self) -> int: ...


class ShapeAuthority(Protocol):
    """Says which shapes a network takes: the network itself, or what can ask it.

    Attributes:
        limits: what it may use of memory at each shape.
    """

    @property
    def limits(self) -> Limits: ...

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> ShapeNeeds:
        """Asks whether the network takes these shapes of its inputs, in its own layout.

        Args:
            fed: the optional inputs among them.
            values: of inputs that decide sizes.

        Raises ShapeError naming the layer that refuses, LimitError for more memory than allowed, EngineError where that
        cannot be said.
        """


class Admission:
    """Checks the inputs of an inference against the network.

    Args:
        authority: is asked about shapes that were not seen before.
        analysis: of the network.
    """

    def __init__(self, authority: ShapeAuthority, analysis: Analysis) -> None:
        self._authority = authority
        self._inputs = {blob.name: blob for blob in analysis.inputs}
        self._optional = analysis.optional
        self._sizing = analysis.sizing
        self._pictures = analysis.pictures.keys()
        self._batched = analysis.obstacle is None and not analysis.sizing
        self._fitting: dict[Key, bool] = {}  # whether they have been answered
        self._answered: dict[Key, Arrays] = {}
        self._rows: dict[Key, _Rows] = {}
        if analysis.checked and not analysis.sizing:
            needed = [blob for blob in analysis.inputs if blob.name not in analysis.optional]
            shapes = {blob.name: tuple(dim or 0 for dim in blob.dims) for blob in needed}
            self._admit(tuple(shapes.items()), shapes, analysis.compiled_bytes + analysis.activation_bytes)

    def check(self, feeds: Arrays) -> tuple[tuple[str, ...], Key | None]:
        """The optional inputs among those fed; and for :meth:`note_answer`, if such inputs have not been answered yet.

        Raises:
            RequestError: an input is missing, unknown, or of a rank or size that the network does not take.
        """
        key, values = self._key(feeds)
        fed = tuple([name for name in self._optional if name in feeds]) if self._optional else ()
        answered = self._fitting.get(key)
        if answered is not None:
            return fed, None if answered else key
        for name, array in feeds.items():
            self._check_input(name, array)
        for name in self._inputs:
            if name not in feeds and name not in self._optional:
                raise RequestError(
                    f"input `{name}` is missing",
                    expected=listed(self._inputs),
                    found=", ".join(feeds) or "no inputs",
                )
        shapes = {name: array.shape for name, array in feeds.items()}
        memory_bytes = self._for_other_rows(shapes)
        if memory_bytes is None:
            memory_bytes = self._asked(feeds, fed, values)
        self._admit(key, shapes, memory_bytes)
        return fed, key

    def note_answer(self, key: Key, feeds: Arrays) -> None:
        """Remembers that inputs have been answered.

        Small ones are kept as they are, since they may decide sizes; of large ones the shape is enough.
        """
        _remember(self._fitting, key, True)
        known = {
            name: array.copy() if array.size <= SAMPLE_LIMIT else np.broadcast_to(array.dtype.type(0), array.shape)
            for name, array in feeds.items()
        }
        _remember(self._answered, _shapes_of(feeds), known, KEPT_ANSWERED)

    def answered(self, feeds: Arrays) -> dict[str, np.ndarray] | None:
        """Inputs that were answered: of the same shapes as ``feeds``, or else the last ones with the same names;
        ``None`` if there are none."""
        alike = self._answered.get(_shapes_of(feeds))
        if alike is None:
            named = [known for known in self._answered.values() if known.keys() == feeds.keys()]
            alike = named[-1] if named else None
        return None if alike is None else {name: np.array(array, order="C") for name, array in alike.items()}

    def withdraw(self, feeds: Arrays) -> None:
        """Forgets that inputs fit: an engine has refused them."""
        self._fitting.pop(self._key(feeds)[0], None)
        self._rows.pop(_without_rows({name: array.shape for name, array in feeds.items()}), None)

    def needs(self, feeds: Arrays) -> int:
        """The memory in bytes for inputs. Raises RequestError: the network does not take them."""
        fed = tuple(name for name in self._optional if name in feeds)
        return self._asked(feeds, fed, self._key(feeds)[1])

    def admit(self, shapes: Mapping[str, tuple[int, ...]], memory_bytes: int) -> None:
        """Notes that the network takes shapes of its inputs, and the memory that it needs at them."""
        if not self._sizing:
            self._admit(tuple(shapes.items()), shapes, memory_bytes)

    def _admit(self, key: Key, shapes: Mapping[str, tuple[int, ...]], memory_bytes: int) -> None:
        _remember(self._fitting, key, False)
        rows = {shape[0] for shape in shapes.values() if shape}
        if self._batched and len(rows) == 1:
            _remember(self._rows, _without_rows(shapes), _Rows(max(1, rows.pop()), memory_bytes))

    def _for_other_rows(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The memory for shapes of which only the number of rows is new, where that is enough to know.

        It is counted as if all of it grew with the rows; if that is too much, the network is asked.
        """
        known = self._rows.get(_without_rows(shapes)) if self._batched else None
        rows = {shape[0] for shape in shapes.values() if shape}
        if known is None or len(rows) != 1 or 0 in rows:
            return None
        memory_bytes = known.memory_bytes * max(known.count, rows.pop()) // known.count
        return None if memory_bytes > min(self._authority.limits.memory_bytes, MAX_ELEMENTS) else memory_bytes

    def _asked(self, feeds: Arrays, fed: tuple[str, ...], values: Arrays) -> int:
        shapes = {name: array.shape for name, array in feeds.items()}
        for name in self._pictures & shapes.keys():
            n, h, w, c = shapes[name]
            shapes[name] = (n, c, h, w)
        try:
            return self._authority.check_shapes(shapes, fed, values).memory_bytes
        except EngineError:  # what should have said it has failed
            raise
        except TnnError as error:
            raise not_taken(feeds, error) from error

    def _key(self, feeds: Arrays) -> tuple[Key, Arrays]:
        """What decides whether inputs fit: their shapes, and the values of those that say sizes."""
        key = _shapes_of(feeds)
        if not self._sizing:
            return key, NO_ARRAYS
        values = {name: feeds[name] for name in self._sizing if name in feeds and feeds[name].size <= SAMPLE_LIMIT}
        return (*key, *(array.tobytes() for array in values.values())), values

    def _check_input(self, name: str, array: np.ndarray) -> None:
        blob = self._inputs.get(name)
        if blob is None:
            raise RequestError(
                f"there is no input `{name}`", expected=listed(self._inputs), hint=did_you_mean(name, self._inputs)
            )
        if len(array.shape) != len(blob.known) or any(
            want is not None and want != have for want, have in zip(blob.known, array.shape, strict=True)
        ):
            dims = ", ".join("any" if dim is None else str(dim) for dim in blob.known)
            raise RequestError(f"input `{name}` has another shape", expected=f"[{dims}]", found=list(array.shape))


def not_taken(feeds: Arrays, error: TnnError) -> RequestError:
    """The error for inputs whose sizes the network, or an engine in its place, has refused."""
    sizes = ", ".join(f"`{name}` {list(array.shape)}" for name, array in feeds.items())
    return RequestError(f"the network does not take {sizes}", found=str(error))


def _without_rows(shapes: Mapping[str, tuple[int, ...]]) -> Key:
    return tuple([(name, shape[1:]) for name, shape in shapes.items()])


def _shapes_of(feeds: Arrays) -> Key:
    return tuple([(name, array.shape) for name, array in feeds.items()])


def _remember(facts: dict[Key, T], key: Key, fact: T, most: int = REMEMBERED_SHAPES) -> None:
    facts[key] = fact
    while len(facts) > most:
        facts.pop(next(iter(facts)), None)
