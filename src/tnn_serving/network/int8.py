"""Which form int8 layers are run in: exact, where every code is TNN's, or fast, with the engine's int8 kernels."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal, get_args

from tnn_serving.emit.int8 import Form
from tnn_serving.engines.cpu import ISA_VARIABLE, WITHOUT_AMX, Cpu, this_cpu
from tnn_serving.errors import ConfigError
from tnn_serving.graph import Graph
from tnn_serving.tensor import Tensor

log = logging.getLogger(__name__)

Choice = Literal["auto", "fast", "exact"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The form, and why."""

    form: Form
    reason: str


def decide(graph: Graph, engine: str, choice: str, cpu: Cpu) -> Decision:
    """The form for an engine on a processor.

    Fast needs 32-bit sums of 8-bit products (VNNI): without it engines saturate 16-bit sums and codes are off by up to
    66 steps. Weight zero points have no fast kernel on either engine. ONNX Runtime's kernels want unsigned codes;
    OpenVINO is fastest with signed ones, and takes unsigned ones where blobs have zero points.

    Raises:
        ConfigError: ``choice`` is none of auto, fast, exact.
    """
    if choice not in get_args(Choice):
        raise ConfigError("unknown int8 form", expected=", ".join(get_args(Choice)), found=choice)
    if not graph.quantized:
        return Decision(Form.EXACT, "the network has no int8 layers")
    signed = engine == "openvino" and not _blob_zero_points(graph)
    fast = Form.FAST_S8 if signed else Form.FAST_U8
    if choice == "exact":
        return Decision(Form.EXACT, "asked for")
    if choice == "fast":
        return Decision(fast, "asked for")
    if not cpu.vnni:
        return Decision(Form.EXACT, "the processor, or the limit set for oneDNN, lacks VNNI")
    if _weight_zero_points(graph):
        return Decision(Form.EXACT, "weights have zero points, for which there are no int8 kernels")
    if engine == "openvino" and cpu.amx_int8:
        return Decision(Form.EXACT, f"int8 with free shapes is not safe on AMX; {ISA_VARIABLE}={WITHOUT_AMX} avoids it")
    return Decision(fast, "the processor has VNNI")


def processor() -> Cpu:
    """The processor as networks get it: without AMX, on which some OpenVINO releases crash with int8.

    oneDNN is told so; to be called before the first compilation, when it looks. float32 loses nothing, since AMX has
    none. A limit that is set already stays.
    """
    if this_cpu().amx_int8 and ISA_VARIABLE not in os.environ:
        os.environ[ISA_VARIABLE] = WITHOUT_AMX
        log.info("%s=%s set: int8 networks with free shapes are not safe on AMX", ISA_VARIABLE, WITHOUT_AMX)
    return this_cpu()


def _nonzero(tensor: Tensor | None) -> bool:
    return tensor is not None and bool(tensor.array().any())


def _weight_zero_points(graph: Graph) -> bool:
    return any(layer.quantized and _nonzero(getattr(layer, "zero_point", None)) for layer in graph.layers)


def _blob_zero_points(graph: Graph) -> bool:
    return any(_nonzero(scale.zero_point) for scale in graph.scales.values())
