"""Engines that run ONNX models: compile once, run many times, from any thread.

In: ONNX models and :class:`Options`.  Out: :class:`Executable`.  Must not import anything of TNN.
"""

from __future__ import annotations

from tnn_serving.engines.base import Engine, Executable, NodeTime, Options, Shapes, TensorSpec
from tnn_serving.engines.select import ENGINES, engine_named

__all__ = ["ENGINES", "Engine", "Executable", "NodeTime", "Options", "Shapes", "TensorSpec", "engine_named"]
