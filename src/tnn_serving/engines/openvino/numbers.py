"""Which numbers OpenVINO computes in another type than the model says: models that show it are refused.

Its CPU plugin computes float64 in float32, 64-bit and unsigned 32-bit integers in int32, and integers of 8 and 16 bits
in types that do not wrap around. Refused are:

- float64 anywhere but in stored values that are converted at once;
- an output of 64 bits, or of uint32, whose values may be beyond int32: an input or a converted number that goes there,
  or a sum or product of such. Sizes and indices are small by nature, and remain so in sums and products;
- arithmetic with a stored integer beyond int32;
- arithmetic with integers of less than 32 bits, and quantisation to 16 bits.

An input of a wide type that goes elsewhere, such as the indices of an embedding, is right within int32;
:func:`wide_inputs` names those whose values have to be looked at in each request.

Not covered: sums and products of such inputs that leave int32 on the way to an index, a comparison or a float.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import openvino as ov

from tnn_serving.engines.openvino.nodes import bodies, is_float, readers_of, source
from tnn_serving.errors import EngineError

WIDE = (ov.Type.i64, ov.Type.u64, ov.Type.u32)
"""Integers that are computed in int32."""

SMALL = (ov.Type.i8, ov.Type.u8, ov.Type.i16, ov.Type.u16)
"""Integers whose arithmetic does not wrap around."""

INT32_RANGE = np.iinfo(np.int32)

SIZES = {"Bucketize", "NonMaxSuppression", "NonZero", "SearchSorted", "ShapeOf"}
"""Operators whose integers are sizes or indices."""

SIZES_BEHIND_FIRST = {"MaxPool", "TopK", "Unique"}
"""Operators of which that holds for all outputs but the first."""

MOVING_OPS: dict[str, slice] = {
    **dict.fromkeys(
        ("Concat", "FloorMod", "Maximum", "Minimum", "Mod", "Result", "ScatterElementsUpdate"),
        slice(None),
    ),
    **dict.fromkeys(
        (
            "Broadcast",
            "Clamp",
            "DepthToSpace",
            "Gather",
            "GatherElements",
            "GatherND",
            "Identity",
            "ReduceMax",
            "ReduceMin",
            "Reshape",
            "Reverse",
            "ReverseSequence",
            "Roll",
            "Slice",
            "SpaceToDepth",
            "Squeeze",
            "StridedSlice",
            "Tile",
            "TopK",
            "Transpose",
            "Unique",
            "Unsqueeze",
        ),
        slice(1),
    ),
    **dict.fromkeys(("ScatterNDUpdate", "ScatterUpdate"), slice(0, 3, 2)),
    "OneHot": slice(2, 4),
    "Pad": slice(0, 4, 3),
    "Select": slice(1, 3),
    "Split": slice(1),
    "VariadicSplit": slice(1),
}
"""Operators that give no number beyond those of some operands, and which these are."""

ARITHMETIC = {
    "Abs",
    "Add",
    "CumSum",
    "Divide",
    "Multiply",
    "Negative",
    "Power",
    "ReduceProd",
    "ReduceSum",
    "SquaredDifference",
    "Subtract",
}
"""Operators whose results may be beyond their operands."""

SMALL_CONSTANT = 1 << 16
"""Stored integers below it are taken for sizes or indices."""

CODES = 256
"""Levels of a quantisation to 8 bits."""


class Extent(IntEnum):
    """How far integers may reach."""

    SIZE = 0
    IN_INT32 = 1
    BEYOND = 2


def check_numbers(network: ov.Model) -> None:
    """Raises EngineError for a network whose numbers OpenVINO would compute in a type that shows."""
    for model in (network, *bodies(network)):
        for node in model.get_ordered_ops():
            _check_types(node)
        if any(_is_wide(result) for result in model.get_results()):
            _check_results(model)


def wide_inputs(network: ov.Model) -> dict[str, tuple[int, int]]:
    """Inputs that are right within limits only: least and largest value by name.

    A conversion to float that reads an input directly takes all its bits.
    """
    found = {}
    for parameter in network.get_parameters():
        converted = all(map(is_float, readers_of(parameter)))
        if _is_wide(parameter) and not converted:
            unsigned = parameter.get_element_type() != ov.Type.i64
            found[parameter.get_friendly_name()] = (0 if unsigned else int(INT32_RANGE.min), int(INT32_RANGE.max))
    return found


def _check_types(node: ov.Node) -> None:
    kind, dtype = node.get_type_name(), node.get_output_element_type(0) if node.get_output_size() else None
    if kind == "Constant":
        if dtype == ov.Type.f64:
            for reader in readers_of(node):
                if reader.get_type_name() != "Convert":
                    _refuse(reader, "float64 in float32")
        return
    if dtype == ov.Type.f64 and not (kind == "Convert" and source(node).get_type_name() == "Constant"):
        _refuse(node, "float64 in float32")
    if kind in ARITHMETIC and dtype in SMALL:
        _refuse(node, "integers of 8 and 16 bits in types that do not wrap around")
    if kind in ARITHMETIC and _is_wide(node) and any(map(_is_beyond, node.input_values())):
        _refuse(node, "integers in int32, with a stored one beyond it")
    if kind == "FakeQuantize" and node.get_attributes()["levels"] > CODES:
        _refuse(readers_of(node)[0], "codes of 16 bits in float32")


def _check_results(network: ov.Model) -> None:
    """Follows how far integers reach, from the inputs to the outputs."""
    extents: dict[str, list[Extent]] = {}
    for node in network.get_ordered_ops():
        values = node.input_values()[MOVING_OPS.get(node.get_type_name(), slice(None))]
        operands = [
            extents[value.get_node().get_name()][value.get_index()]
            for value in values
            if not _is_float(value.get_element_type())
        ]
        extents[node.get_name()] = [_extent(node, index, operands) for index in range(node.get_output_size())]
    for result in network.get_results():
        if _is_wide(result) and extents[result.get_name()][0] is Extent.BEYOND:
            _refuse(source(result), "integers in int32, and an output may be beyond it")


def _extent(node: ov.Node, index: int, operands: list[Extent]) -> Extent:
    kind, dtype = node.get_type_name(), node.get_output_element_type(index)
    if dtype not in (*WIDE, ov.Type.i32) or kind in SIZES or (kind in SIZES_BEHIND_FIRST and index):
        return Extent.SIZE
    if kind == "Constant":
        return _stored(node)
    if dtype == ov.Type.i32:
        return Extent.IN_INT32
    if kind == "Convert":
        return Extent.BEYOND if _is_float(node.get_input_element_type(0)) else operands[0]
    most = max(operands, default=Extent.BEYOND)
    return most if kind in MOVING_OPS or most is Extent.SIZE else Extent.BEYOND


def _stored(constant: ov.Node) -> Extent:
    low, high = _range(constant)
    if low > -SMALL_CONSTANT and high < SMALL_CONSTANT:
        return Extent.SIZE
    return Extent.IN_INT32 if INT32_RANGE.min <= low and high <= INT32_RANGE.max else Extent.BEYOND


def _is_beyond(value: ov.Output) -> bool:
    node = value.get_node()
    return bool(node.get_type_name() == "Constant" and _is_wide(node) and _stored(node) is Extent.BEYOND)


def _range(constant: ov.Node) -> tuple[int, int]:
    data = constant.get_data()
    return (int(data.min()), int(data.max())) if data.size else (0, 0)


def _is_wide(node: ov.Node) -> bool:
    return node.get_output_element_type(0) in WIDE


def _is_float(dtype: ov.Type) -> bool:
    return bool(dtype.is_real())


def _refuse(node: ov.Node, how: str) -> None:
    raise EngineError(f"node `{node.get_friendly_name()}` ({node.get_type_name()}): OpenVINO computes {how}")
