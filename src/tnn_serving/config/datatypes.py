"""Triton's names of element types and numpy's types: one table, used in both directions."""

from __future__ import annotations

import numpy as np

from tnn_serving.errors import UnsupportedLayer

_TYPES: tuple[tuple[str, type[np.generic] | None], ...] = (
    ("BOOL", np.bool_),
    ("UINT8", np.uint8),
    ("UINT16", np.uint16),
    ("UINT32", np.uint32),
    ("UINT64", np.uint64),
    ("INT8", np.int8),
    ("INT16", np.int16),
    ("INT32", np.int32),
    ("INT64", np.int64),
    ("FP16", np.float16),
    ("FP32", np.float32),
    ("FP64", np.float64),
    ("BF16", None),  # numpy has no type of its own for it
    ("BYTES", None),  # elements of different lengths
)

NUMPY_TYPE: dict[str, np.dtype] = {name: np.dtype(kind) for name, kind in _TYPES if kind is not None}
"""numpy's type by Triton's name, for the types that numpy has."""

TRITON_TYPE: dict[np.dtype, str] = {dtype: name for name, dtype in NUMPY_TYPE.items()}
"""Triton's name by numpy's type, as requests and metadata use it."""


def triton_type(dtype: np.dtype) -> str:
    """Triton's name of an element type. Raises UnsupportedLayer for a type that Triton does not have."""
    try:
        return TRITON_TYPE[dtype]
    except KeyError:
        raise UnsupportedLayer(
            f"tensors of {dtype} cannot be served", expected=f"a type that Triton has: {', '.join(NUMPY_TYPE)}"
        ) from None
