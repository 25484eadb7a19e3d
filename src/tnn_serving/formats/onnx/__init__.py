"""ONNX files, to and from ``onnx.ModelProto``: syntax only, no meaning.

In: a path, bytes, or a model in memory.  Out: a checked model that holds all its tensors, whose nodes have names and an
order in which they can be computed.  Must not import an engine, or anything above ``formats``.
"""

from __future__ import annotations

from tnn_serving.formats.onnx.check import skeleton
from tnn_serving.formats.onnx.file import data_files, onnx_file, read_onnx, write_onnx
from tnn_serving.formats.onnx.types import (
    DTYPES,
    element_dtype,
    graphs_of,
    names_taken,
    nodes_within,
    tensor_bytes,
    tensor_dims,
    tensor_dtype,
    type_name,
)

__all__ = [
    "DTYPES",
    "data_files",
    "element_dtype",
    "graphs_of",
    "names_taken",
    "nodes_within",
    "onnx_file",
    "read_onnx",
    "skeleton",
    "tensor_bytes",
    "tensor_dims",
    "tensor_dtype",
    "type_name",
    "write_onnx",
]
