"""Pixels in front of a network that came as ONNX."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from tnn_serving.emit.builder import Builder
from tnn_serving.graph import Input
from tnn_serving.pictures.conversion import PictureInput
from tnn_serving.translate.pictures import pixels


def as_pixels(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """[N, C, H, W] as [N, H, W, C]. Other ranks stay, and :func:`put_pixels_before` refuses them with the reason."""
    if len(dims) != 4:
        return dims
    n, c, h, w = dims
    return n, h, w, c


def put_pixels_before(
    graph: ir.Graph, name: str, dims: tuple[int | None, ...], default: tuple[int, ...], picture: PictureInput
) -> None:
    """Replaces an input [N, C, H, W] by uint8 pixels [N, H, W, C] and the nodes that convert them.

    Args:
        dims: of the input, ``None`` where free.
        default: dims that the network takes.

    Raises:
        ConfigError: the input is no picture, or the parameters do not fit its channels.
    """
    builder = Builder()
    for node in graph:
        for value in node.outputs:
            builder.claim(value.name or "")
    for known in graph.initializers:
        builder.claim(known)
    item = Input(name, tuple(size if dim is None else dim for dim, size in zip(dims, default, strict=True)))
    symbols = tuple(f"{name}.dim{k}" if dim is None else dim for k, dim in enumerate(dims))
    before = next(value for value in graph.inputs if value.name == name)
    entry, blob = pixels(builder, item, picture, item.dims, symbols)
    for node, index in list(before.uses()):
        node.replace_input_with(index, blob.ir)
    graph.inputs[:] = [entry.ir if value is before else value for value in graph.inputs]
    for constant, value in builder.initializers.items():
        graph.initializers[constant] = value
    graph.insert_before(graph[0], builder.nodes)
