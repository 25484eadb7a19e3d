"""Inputs to try a model with: what decides a size, an index or a count has a value that the model is likely to take.

Random numbers do for most inputs. Where an input is the shape of a Reshape, the scales of a Resize or the k of a TopK,
they are refused, and nothing is compared; or they are taken, and ask for 10^9 elements.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tnn_serving.engines.base import Arrays

if TYPE_CHECKING:
    import onnx

TrialDims = tuple[int, ...]

SMALL_ELEMENTS = 64
"""Inputs of floats up to this size may be scales or thresholds; larger ones are data."""

LENGTH = 8
"""A size where nothing says one."""

LARGE = 1 << 30
"""An end that is behind every end."""

INTEGER_RANGES = ((1, 8), (0, 2), (0, 1))
"""Ranges of integers without a role, by attempt, the end excluded: a divisor is not 0, an index is small."""

NARROW_BYTES = 2
"""Integers up to this size take any value in the first attempt: pixels and codes."""

ATTEMPTS = len(INTEGER_RANGES)

RESHAPING_OPS = {
    "Concat": None,
    "Expand": 0,
    "Flatten": 0,
    "Gather": 0,
    "Reshape": 0,
    "Slice": 0,
    "Squeeze": 0,
    "Transpose": 0,
    "Unsqueeze": 0,
}
"""Operators that give values of theirs on, with the number of the input that has them; ``None`` for any."""

COMPUTING = {"Add", "Ceil", "Div", "Floor", "Max", "Min", "Mul", "Sub"}
"""Operators that make a size of a size."""

UNCHANGED_OPS = {"Cast", "Identity"}


@dataclass(frozen=True, slots=True)
class Slot:
    """An input of a node, as far as it decides what values fit.

    Attributes:
        shape: of the model's input.
        direct: the node reads that input as it is, not a part of it or something computed.
        data: dims of the node's first input; ``None`` where they are not known.
        result: dims of its first output.
        axis: its attribute of this name.
    """

    shape: TrialDims
    direct: bool
    data: TrialDims | None
    result: TrialDims | None
    axis: int | None

    @property
    def length(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))


Values = Callable[[Slot], "np.ndarray | Sequence[float] | float | None"]
"""Values for a slot: an array of its shape, or one number for all; ``None`` where it cannot be said."""


def _number(value: float) -> Values:
    return lambda slot: value


def _result(slot: Slot) -> TrialDims | None:
    return slot.result


def _data(slot: Slot) -> TrialDims | None:
    return slot.data


def _ratio(slot: Slot) -> list[float] | None:
    if slot.data is None or slot.result is None or len(slot.data) != len(slot.result):
        return None
    return [y / x if x else 1.0 for x, y in zip(slot.data, slot.result, strict=True)]


def _twice(slot: Slot) -> list[int] | None:
    """Dims of data, its last axes doubled."""
    return None if slot.data is None else [x * (1 + (k > 1)) for k, x in enumerate(slot.data)]


def _last_doubled(slot: Slot) -> list[float]:
    return [1.0 + (k > 1 or slot.length < 3) for k in range(slot.length)]


def _one_free(slot: Slot) -> list[int]:
    return [-1, *[1] * (slot.length - 1)]


def _axes(slot: Slot) -> np.ndarray:
    return np.arange(slot.length)


def _region(slot: Slot) -> list[float]:
    """The whole of each axis: begins, then ends."""
    return [0.0] * (slot.length // 2) + [1.0] * (slot.length // 2)


def _parts(slot: Slot) -> list[int] | None:
    if slot.data is None or not slot.length:
        return None
    size = slot.data[slot.axis or 0]
    return [size // slot.length + (k < size % slot.length) for k in range(slot.length)]


def _indices(slot: Slot) -> np.ndarray:
    axis = slot.axis or 0
    size = slot.data[axis] if slot.data and -len(slot.data) <= axis < len(slot.data) else 1
    return np.random.default_rng(0).integers(0, max(size, 1), slot.shape)


def _labels(slot: Slot) -> np.ndarray:
    return np.random.default_rng(0).integers(0, LENGTH, slot.shape)


def _spatial_result(slot: Slot) -> TrialDims | None:
    return None if slot.result is None else slot.result[2:]


def _sequence(slot: Slot) -> int:
    return slot.data[0] if slot.data else 1


SIZE = (_result, _data, _number(2))
REDUCED_AXES = (_axes, _number(0))

ROLES: Mapping[tuple[str, int], tuple[Values, ...]] = {
    ("AffineGrid", 1): (_number(2),),
    ("BatchNormalization", 4): (_number(1),),
    ("CenterCropPad", 1): (_spatial_result, _number(LENGTH)),
    ("Clip", 1): (_number(0),),
    ("Clip", 2): (_number(1),),
    ("Col2Im", 1): (_spatial_result, _number(LENGTH)),
    ("Col2Im", 2): (_number(1), _number(2)),
    ("ConstantOfShape", 0): SIZE,
    ("CumSum", 1): (_number(0),),
    ("DFT", 1): (_number(LENGTH),),
    ("DFT", 2): (_number(1),),
    ("DequantizeLinear", 1): (_number(0.1),),
    ("Dropout", 1): (_number(0.5),),
    ("Dropout", 2): (_number(0),),
    ("Expand", 1): SIZE,
    ("GRU", 4): (_sequence,),
    ("Gather", 1): (_indices, _number(0)),
    ("GatherElements", 1): (_indices, _number(0)),
    ("GatherND", 1): (_number(0),),
    ("LSTM", 4): (_sequence,),
    ("Loop", 0): (_number(2),),
    ("MaxUnpool", 2): SIZE,
    ("NonMaxSuppression", 2): (_number(LENGTH),),
    ("NonMaxSuppression", 3): (_number(0.5),),
    ("NonMaxSuppression", 4): (_number(0),),
    ("OneHot", 0): (_labels, _number(0)),
    ("OneHot", 1): (_number(LENGTH),),
    ("Pad", 1): (_number(1), _number(0)),
    ("Pad", 3): REDUCED_AXES,
    ("QuantizeLinear", 1): (_number(0.1),),
    ("RNN", 4): (_sequence,),
    ("Range", 0): (_number(0),),
    ("Range", 1): (_number(LENGTH),),
    ("Range", 2): (_number(1),),
    ("Reshape", 1): (_result, _one_free, _number(-1)),
    ("Resize", 1): (_region,),
    ("Resize", 2): (_ratio, _last_doubled, _number(1)),
    ("Resize", 3): (_result, _twice, _number(LENGTH)),
    ("ReverseSequence", 1): (_number(1),),
    ("RoiAlign", 2): (_number(0),),
    ("STFT", 1): (_number(2),),
    ("STFT", 3): (_number(LENGTH),),
    ("Scatter", 1): (_indices, _number(0)),
    ("ScatterElements", 1): (_indices, _number(0)),
    ("ScatterND", 1): (_number(0),),
    ("Slice", 1): (_number(0),),
    ("Slice", 2): (_number(LARGE),),
    ("Slice", 3): REDUCED_AXES,
    ("Slice", 4): (_number(1),),
    ("Split", 1): (_parts, _number(1)),
    ("Squeeze", 1): REDUCED_AXES,
    ("Tile", 1): (_ratio, _number(2), _number(1)),
    ("TopK", 1): (_number(2), _number(1)),
    ("Trilu", 1): (_number(0),),
    ("Unsqueeze", 1): REDUCED_AXES,
    ("Upsample", 1): (_ratio, _last_doubled, _number(1)),
    **{(f"{kind}Window", 0): (_number(LENGTH),) for kind in ("Blackman", "Hamming", "Hann")},
    **{
        (f"Reduce{kind}", 1): REDUCED_AXES
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
"""Values for an input by operator and number, the likeliest first."""


class TrialInputs:
    """Inputs to try a model with, the likeliest to be taken first.

    Args:
        feeds: random numbers for all inputs. Those without a role stay, but for integers that are no pixels.

    Attributes:
        sized: the likeliest values of inputs that have a role; an executable can be asked with these and zeros.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Arrays) -> None:
        self._feeds = feeds
        self._roles = _roles(model, feeds)
        self.sized = {name: role.values(feeds[name], 0) for name, role in self._roles.items()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for attempt in range(ATTEMPTS):
            random = np.random.default_rng(0)
            yield {name: self._value(name, attempt, random) for name in self._feeds}

    def _value(self, name: str, attempt: int, random: np.random.Generator) -> np.ndarray:
        array = self._feeds[name]
        if name in self._roles:
            return self._roles[name].values(array, attempt)
        if array.dtype.kind not in "iub":
            return array
        return random.integers(*_limits(array.dtype, attempt), array.shape, array.dtype)


def _limits(dtype: np.dtype, attempt: int) -> tuple[int, int]:
    """Range of integers without a role, the end excluded."""
    if dtype.kind == "b":
        return 0, 2
    if dtype.itemsize <= NARROW_BYTES and not attempt:
        return np.iinfo(dtype).min, np.iinfo(dtype).max + 1
    return INTEGER_RANGES[attempt]


@dataclass(frozen=True, slots=True)
class _Role:
    """What an input is for."""

    slot: Slot
    candidates: tuple[Values, ...]

    def values(self, array: np.ndarray, attempt: int) -> np.ndarray:
        """Values of an attempt, of the array's shape and type."""
        possible = [found for found in (self._fitting(values) for values in self.candidates) if found is not None]
        chosen = possible[min(attempt, len(possible) - 1)] if possible else 1
        values = np.empty_like(array)
        values[...] = chosen
        return values

    def _fitting(self, values: Values) -> np.ndarray | None:
        found = values(self.slot)
        if found is None:
            return None
        made = np.asarray(found)
        if made.ndim and (not self.slot.direct or made.size != self.slot.length):
            return None
        return made.reshape(self.slot.shape) if made.ndim else made


def _roles(model: onnx.ModelProto, feeds: Arrays) -> dict[str, _Role]:
    graph = _Graph(model, feeds)
    found = {}
    for name, array in feeds.items():
        if array.dtype.kind in "iu" or array.size <= SMALL_ELEMENTS:
            role = graph.role(name, array.shape, computed=array.dtype.kind in "iu")
            if role is not None:
                found[name] = role
    return found


class _Graph:
    """Who reads what in a model, and the dims that are known."""

    def __init__(self, model: onnx.ModelProto, feeds: Arrays) -> None:
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self._add(model.graph.node)
        self._dims = {item.name: tuple(item.dims) for item in model.graph.initializer}
        for item in (*model.graph.value_info, *model.graph.output):
            dims = item.type.tensor_type.shape.dim
            if item.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                self._dims[item.name] = tuple(dim.dim_value for dim in dims)
        self._dims.update({name: array.shape for name, array in feeds.items()})

    def _add(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for index, name in enumerate(node.input):
                self._readers[name].append((node, index))
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    self._add(graph.node)

    def role(self, name: str, shape: TrialDims, *, computed: bool) -> _Role | None:
        """The role of the nearest node that has one, behind operators that only move values, or compute with sizes."""
        waiting = deque([(name, True)])
        seen = {name}
        while waiting:
            value, direct = waiting.popleft()
            for node, index in self._readers.get(value, ()):
                candidates = ROLES.get((node.op_type, index))
                if candidates is not None:
                    data, result = (self._dims.get(names[0]) if names else None for names in (node.input, node.output))
                    axis = next((item.i for item in node.attribute if item.name == "axis"), None)
                    return _Role(Slot(shape, direct, data, result, axis), candidates)
                moves = node.op_type in RESHAPING_OPS and RESHAPING_OPS[node.op_type] in (None, index)
                if node.op_type in UNCHANGED_OPS or moves or (computed and node.op_type in COMPUTING):
                    fresh = [output for output in node.output if output not in seen]
                    seen.update(fresh)
                    waiting.extend((output, direct and node.op_type in UNCHANGED_OPS) for output in fresh)
        return None
