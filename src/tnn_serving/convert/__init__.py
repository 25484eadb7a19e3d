"""ONNX networks to TNN graphs.

In: an ONNX model.  Out: :class:`tnn_serving.graph.Graph` of declared layers, ready to be written.  Must not import an
engine or anything that serves; docs/reference/layers.md lists what a TNN network can hold.
"""

from __future__ import annotations

from tnn_serving.convert.network import convert_onnx

__all__ = ["convert_onnx"]
