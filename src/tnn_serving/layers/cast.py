"""Changes of element type."""

from __future__ import annotations

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import Operand, X
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import NARROWED
from tnn_serving.tensor import COMPUTED, TNN_TYPE, DataType

DATA_TYPES = {kind.value: kind.name.lower() for kind in DataType}


@layer(103, "Cast")
class Cast(Layer):
    """Changes the element type; floats are cut toward zero, int32 keeps its low byte as int8.

    ONNX: Cast.
    TNN differs: leaves the output unset for pairs that it does not know: half, bfp16 and int64 with any other.
    """

    operands = (X,)
    results = (Operand("y", "as x", doc="of the given type"),)
    made_from = ("Cast(x)",)

    to: int = token("data type", default=0, values=DATA_TYPES)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """To the type that TNN computes the wanted one in; not to bool, which keeps no numbers but 0 and 1."""
        if m.y.dtype == np.bool_:
            return None
        return cls.made(m, m["x"], to=int(TNN_TYPE[NARROWED.get(m.y.dtype, m.y.dtype)]))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.cast(x, computed_type(self.to))


@layer(170, "Reformat")
class Reformat(Layer):
    """Converts blobs from one data type to another; TNN inserts it between float and int8 layers itself.

    ONNX: Cast, if anything. A blob next to a marked int8 layer travels as the real numbers that its codes mean, and is
        quantised with its own scale where that layer reads it; half and bfp16 are float32.
    """

    operands = (Operand("x", repeated=True),)
    results = (Operand("y", "as x", doc="of the destination type", repeated=True),)

    source: int = token("data type of the inputs", default=0, values=DATA_TYPES)
    destination: int = token("data type of the outputs", default=0, values=DATA_TYPES)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = self.source if self.source in DATA_TYPES else 0
        self.destination = self.destination if self.destination in DATA_TYPES else 0

    def to_onnx(self, g: Builder, *inputs: Value) -> list[Value]:
        """See the class. Raises UnsupportedLayer for int8 bytes without a scale."""
        wanted = computed_type(self.destination)
        made = []
        for x in inputs:
            if x.dtype == np.int8 and wanted != np.int8:
                raise UnsupportedLayer("int8 blob has no scale", expected="a blob that a marked int8 layer writes")
            made.append(x if wanted == np.int8 else g.cast(x, wanted))
        return made


def computed_type(code: int) -> np.dtype:
    """The type that a data type number is computed in. Raises UnsupportedLayer for numbers that TNN does not have."""
    if code not in DATA_TYPES:
        raise UnsupportedLayer("data type is unknown", expected=DATA_TYPES, found=code)
    return COMPUTED[DataType(code)]
