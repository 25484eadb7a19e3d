"""How much memory an ONNX model takes at given shapes, known from its graph alone."""

from __future__ import annotations

from collections.abc import Container

import onnx

from tnn_serving.emit.limits import Limits
from tnn_serving.errors import located
from tnn_serving.formats.onnx import element_dtype, names_taken, tensor_dims


def activation_bytes(graph: onnx.GraphProto, stored: Container[str], limits: Limits) -> int:
    """The largest sum of values alive at one time, of those whose dims are known: an estimate, as
    :meth:`tnn_serving.emit.builder.Builder.memory` makes it.

    Args:
        graph: with the types of its values, as ONNX's inference gives them.
        stored: names of its inputs that are weights.
        limits: of each value.

    Raises LimitError naming a value that is too large by itself.
    """
    sizes = {}
    for item in (*graph.input, *graph.value_info, *graph.output):
        dims, kind = tensor_dims(item), element_dtype(item.type.tensor_type.elem_type)
        if dims is not None and kind is not None and item.name not in stored:
            with located(f"value `{item.name}`"):
                sizes[item.name] = limits.check_tensor(dims, kind)
    alive = most = sum(sizes.get(item.name, 0) for item in graph.input)
    last = {name: k for k, node in enumerate(graph.node) for name in names_taken(node)}
    ending: dict[int, int] = {}
    for k, node in enumerate(graph.node):
        for name in node.output:
            size = sizes.get(name, 0)
            alive += size
            if name in last:
                ending[last[name]] = ending.get(last[name], 0) + size
        most = max(most, alive)
        alive -= ending.pop(k, 0)
    return most
