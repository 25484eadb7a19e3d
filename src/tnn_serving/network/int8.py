"""Which form int8 layers are run in: exact, where every code is TNN's, or fast, with the engine's int8 kernels."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tnn_serving.choices import Int8Choice
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import Engine
from tnn_serving.engines.cpu import ISA_VARIABLE, WITHOUT_AMX, Cpu, this_cpu

if TYPE_CHECKING:
    from tnn_serving.graph import Graph
    from tnn_serving.tensor import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """The form, and why."""

    form: Form
    reason: str


def decide(graph: Graph, engine: Engine, choice: Int8Choice, cpu: Cpu) -> Decision:
    """The form for an engine on a processor.

    Weight zero points have no fast kernel on any engine. Codes with zero points are written unsigned.
    """
    if not graph.quantized:
        return Decision(Form.EXACT, "the network has no int8 layers")
    kernels = engine.int8_kernels(cpu)
    fast = Form.FAST_S8 if kernels.signed and not _blob_zero_points(graph) else Form.FAST_U8
    if choice != "auto":
        return Decision(Form.EXACT if choice == "exact" else fast, "asked for")
    if _weight_zero_points(graph):
        return Decision(Form.EXACT, "weights have zero points, for which there are no int8 kernels")
    if kernels.obstacle is not None:
        return Decision(Form.EXACT, kernels.obstacle)
    return Decision(fast, "the processor has VNNI")


def processor() -> Cpu:
    """The processor as networks get it: without AMX, on which some releases of engines crash with int8.

    This sets oneDNN's variable, and must be called before the first compilation, when oneDNN reads it. float32 loses
    nothing, since AMX has none. A limit that is set already stays.
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
