"""ONNX networks to TNN graphs.

In: an ONNX model.  Out: :class:`tnn_serving.graph.Graph` of declared layers, written as a pair of files, and what was
tried of it.  Which layer is made from what is said by the layers themselves; docs/reference/conversion.md lists it.
"""

from __future__ import annotations

from tnn_serving.conversion.check import SelfCheck, Tried
from tnn_serving.conversion.convert import Account, Conversion, convert

__all__ = ["Account", "Conversion", "SelfCheck", "Tried", "convert"]
