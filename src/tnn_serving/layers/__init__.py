"""One declaration per layer type: operands, parameters, weights, and meaning as ONNX.

In: tokens and buffers from ``formats``.  Out: typed layers that write themselves back and emit what they compute.
Must not import onnx, an engine, ``formats`` or anything above.
"""

from __future__ import annotations

import importlib
import pkgutil

from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.parameters import DHW, HW
from tnn_serving.layers.registry import declaration, declared, is_known, make, type_number

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DHW", "HW", "Layer", "Reserved", "declaration", "declared", "is_known", "make", "type_number"]
