"""What is left to check in each inference: inputs before it, and what the graph has computed for its guards behind it.

Nothing here knows ONNX: a server opens models that were guarded elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from tnn_serving.engines.base import Arrays
from tnn_serving.errors import EngineError, RequestError

GUARDS = "tnn_serving.guards"
"""The output of a guarded model that holds what its guards have found: int32, :data:`ENTRIES` for each."""

ENTRIES = 4
"""Least value found and allowed, largest value found and allowed."""

FARTHEST = 2147483520
"""The largest float32 that is an int32. Values beyond it, and what is no number, are shown as this one."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that is known once the shapes of a request are.

    Attributes:
        offset: the limit itself, or what is added.
        factor: of the size of an input.
        input: its name, "" for none.
        axis: of this input.
    """

    offset: int
    factor: int = 0
    input: str = ""
    axis: int = 0

    def at(self, feeds: Arrays) -> int:
        """The limit for a request."""
        return self.offset + self.factor * feeds[self.input].shape[self.axis] if self.factor else self.offset


@dataclass(frozen=True, slots=True)
class InputCheck:
    """A range that is checked before an inference.

    Attributes:
        tensor: what has to be in the range: an input, or a stored tensor.
        node: who reads it, as a sentence names it.
        low, high: the limits, both allowed.
        stored: least and largest value of a stored tensor; ``None`` for an input.
    """

    tensor: str
    node: str
    low: Limit
    high: Limit
    stored: tuple[int, int] | None = None

    def check(self, feeds: Arrays) -> None:
        """Raises RequestError for a value out of range."""
        if self.stored is None:
            values = feeds.get(self.tensor)
            if values is None or not values.size:
                return
            least, most = int(values.min()), int(values.max())
        else:
            least, most = self.stored
        low, high = self.low.at(feeds), self.high.at(feeds)
        if least < low or most > high:
            raise out_of_range(self.tensor, self.node, (low, high), _shown(least if least < low else most))


@dataclass(frozen=True, slots=True)
class GraphCheck:
    """A range that the graph itself keeps: what it found is behind the outputs.

    Attributes:
        tensor: what has to be in the range.
        node: who reads it.
        size: what a size has to be; "" for what decides none. The range is that of the output's elements then.
    """

    tensor: str
    node: str
    size: str = ""

    def check(self, found: np.ndarray) -> None:
        """Raises RequestError for a value out of range. Takes the guard's entries."""
        least, low, most, high = found.tolist()
        if self.size and least < low:
            raise RequestError(
                f"`{self.tensor}` is out of range for {self.node}", expected=self.size, found=_shown(least)
            )
        if self.size and most > high:
            raise RequestError(
                f"`{self.tensor}` asks {self.node} for too large an output",
                expected=f"at most {high} elements",
                found=_shown(most),
            )
        if least < low or most > high:
            raise out_of_range(self.tensor, self.node, (low, high), _shown(least if least < low else most))


@dataclass(frozen=True, slots=True)
class Checks:
    """All checks of a model.

    Attributes:
        before: of inputs.
        behind: of the graph, in the order of their entries in :data:`GUARDS`.
        unguarded: a node that could not be given a guard; "" for none. Only an engine that refuses what is out of range
            by itself may run such a model.
    """

    before: tuple[InputCheck, ...] = ()
    behind: tuple[GraphCheck, ...] = ()
    unguarded: str = ""

    def __bool__(self) -> bool:
        return bool(self.before or self.behind)

    def check_inputs(self, feeds: Arrays) -> None:
        """Raises RequestError for inputs that are out of range."""
        for check in self.before:
            check.check(feeds)

    def check_answer(self, found: np.ndarray) -> None:
        """Looks at what the graph's guards have found. Raises RequestError."""
        entries = found.reshape(-1, ENTRIES)
        if (entries[:, 0] < entries[:, 1]).any() or (entries[:, 2] > entries[:, 3]).any():
            for check, entry in zip(self.behind, entries, strict=True):
                check.check(entry)

    def to_json(self) -> bytes:
        """The value as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Checks:
        """The value that :meth:`to_json` wrote. Raises EngineError for anything else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, ValueError) as error:
            raise EngineError("the guards of a compiled network cannot be read", found=error) from error


NO_CHECKS = Checks()


def out_of_range(tensor: str, node: str, limits: tuple[int, int], found: object) -> RequestError:
    """The error for a value that an operand of a node cannot have."""
    low, high = limits
    expected = f"{low} to {high}" if low <= high else "none, since there is nothing to choose from"
    return RequestError(f"`{tensor}` is out of range for {node}", expected=expected, found=found)


def _shown(found: int) -> str:
    if abs(found) >= FARTHEST:
        return f"{found} or beyond, or no number"
    return str(found)
