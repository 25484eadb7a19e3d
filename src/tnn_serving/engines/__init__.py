"""Engines that run ONNX models: compile once, run many times, from any thread.

In: ONNX models and :class:`Options`.  Out: :class:`Executable`.  Must not import anything of TNN; an engine is imported
when it first compiles, and no other room names one.
"""

from __future__ import annotations

from tnn_serving.engines.base import (
    Engine,
    Executable,
    Int8Kernels,
    NodeTime,
    Options,
    Precision,
    Shapes,
    TensorSpec,
)
from tnn_serving.engines.registry import AUTO, ENGINES, following_onnx, register

__all__ = [
    "AUTO",
    "ENGINES",
    "Engine",
    "Executable",
    "Int8Kernels",
    "NodeTime",
    "Options",
    "Precision",
    "Shapes",
    "TensorSpec",
    "following_onnx",
    "register",
]
