"""Operators that no TNN layer is made from, said in operators that have one.

In: a node that no pattern of a layer takes.  Out: nodes of opset 21 in its place, each of which is converted in turn. A
rule is asked only then, and may say that it has no form either. Operators that ONNX defines as functions of others need
no rule.
"""

from __future__ import annotations

import importlib
import pkgutil

from tnn_serving.conversion.lowering.rules import LOWERINGS, lowered

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["LOWERINGS", "lowered"]
