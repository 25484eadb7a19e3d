"""What OpenVINO can, on CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from tnn_serving.engines.base import Engine, Executable, Int8Kernels, Options, doubling
from tnn_serving.engines.cpu import ISA_VARIABLE, LACKS_VNNI, WITHOUT_AMX, Cpu

if TYPE_CHECKING:
    import onnx


class OpenVINO(Engine):
    """Compiles with OpenVINO's CPU plugin."""

    name = "openvino"
    title = "OpenVINO"
    precisions = ("f32", "bf16")
    modules = ("tnn_serving.engines.openvino.compilation",)

    def version(self) -> str:
        """Version of the package."""
        return metadata.version("openvino")

    def compile(self, model: onnx.ModelProto, options: Options) -> Executable:
        """Compiles an ONNX model. Raises EngineError if OpenVINO cannot, or would compute something else."""
        from tnn_serving.engines.openvino import compilation

        return compilation.compile(model, options)

    def restore(self, exported: Callable[[], bytes], options: Options) -> Executable:
        """Opens a network as it was compiled. Raises EngineError if it is not what this version wrote."""
        from tnn_serving.engines.openvino import restoring

        return restoring.restore_network(exported)

    def int8_kernels(self, cpu: Cpu) -> Int8Kernels:
        """Signed codes; not on AMX, where some releases crash with int8 and free shapes."""
        obstacle = None
        if not cpu.vnni:
            obstacle = LACKS_VNNI
        elif cpu.amx_int8:
            obstacle = f"int8 with free shapes is not safe on AMX; {ISA_VARIABLE}={WITHOUT_AMX} avoids it"
        return Int8Kernels(signed=True, obstacle=obstacle)

    def stream_counts(self, cores: int) -> Sequence[int]:
        """Powers of two, and one per core."""
        return [*doubling(2, cores - 1), cores] if cores > 1 else []

    def thread_counts(self, cores: int) -> Sequence[int]:
        """Powers of two up to half the cores."""
        return doubling(1, cores // 2)
