"""What ONNX Runtime can, on CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from tnn_serving.engines.base import Engine, Executable, Int8Kernels, Options, doubling
from tnn_serving.engines.cpu import LACKS_VNNI, Cpu

if TYPE_CHECKING:
    import onnx


class OnnxRuntime(Engine):
    """Compiles with ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    follows_onnx = True
    checks_indices = True
    modules = ("tnn_serving.engines.onnxruntime.session",)

    def version(self) -> str:
        """Version of the package."""
        return metadata.version("onnxruntime")

    def compile(self, model: onnx.ModelProto, options: Options) -> Executable:
        """Compiles an ONNX model. Raises EngineError if ONNX Runtime cannot."""
        from tnn_serving.engines.onnxruntime import session

        return session.compile(model, options)

    def restore(self, exported: Callable[[], bytes], options: Options) -> Executable:
        """Opens a model as it was compiled. Raises EngineError if ONNX Runtime cannot."""
        from tnn_serving.engines.onnxruntime import session

        return session.restore(exported(), options)

    def int8_kernels(self, cpu: Cpu) -> Int8Kernels:
        """Unsigned codes."""
        return Int8Kernels(obstacle=None if cpu.vnni else LACKS_VNNI)

    def stream_counts(self, cores: int) -> Sequence[int]:
        """Powers of two, and one per core."""
        return [*doubling(2, cores - 1), cores] if cores > 1 else []

    def thread_counts(self, cores: int) -> Sequence[int]:
        """Powers of two up to half the cores."""
        return doubling(1, cores // 2)
