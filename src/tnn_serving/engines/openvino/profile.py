"""Where the time of an OpenVINO model goes: its performance counters, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov

from tnn_serving.engines.base import PROFILE_WARM_UP, NodeTime
from tnn_serving.errors import EngineError

PROPERTIES: dict[str, Any] = {"PERF_COUNT": True}
"""What a model has to be compiled with."""

NO_NODES = ("Parameter", "Result", "Constant", "Input", "Output", "Const")
"""Node types that compute nothing."""


def profiled(compiled: ov.CompiledModel, feeds: Mapping[int, ov.Tensor], runs: int) -> list[NodeTime]:
    """Mean time of every node over ``runs`` inferences, in the order of execution.

    Args:
        feeds: tensors by the number of the input.

    Raises:
        EngineError: compiled without :data:`PROPERTIES`.
        RuntimeError: as OpenVINO raises it.
    """
    if compiled.get_property("PERF_COUNT") != "YES":
        raise EngineError("the network was not compiled for profiling", expected="the option profile=True")
    request = compiled.create_infer_request()
    for number, tensor in feeds.items():
        request.set_input_tensor(number, tensor)
    for _ in range(PROFILE_WARM_UP):
        request.infer()
    seconds: dict[str, float] = {}
    for _ in range(runs):
        request.infer()
        for node in request.profiling_info:
            seconds[node.node_name] = seconds.get(node.node_name, 0.0) + node.real_time.total_seconds()
    origins = _origins(compiled)
    return [
        NodeTime(
            node.node_name,
            origins.get(node.node_name, ()),
            f"{node.node_type} {node.exec_type}" if seconds[node.node_name] else node.node_type,
            seconds[node.node_name] / runs,
        )
        for node in request.profiling_info
        if node.node_type not in NO_NODES
    ]


def _origins(compiled: ov.CompiledModel) -> dict[str, tuple[str, ...]]:
    """The original names of what each executed node computes; a fused one keeps the name of its main part."""
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        names = str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")
        main = node.get_friendly_name()
        found[main] = (*(name for name in names if name == main), *(name for name in names if name not in ("", main)))
    return found
