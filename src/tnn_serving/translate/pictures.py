"""Picture inputs: uint8 pixels in front of a float network, converted by nodes of the same ONNX graph.

The conversion is TNN's ``MatConvertParam``: ``blob[c] = scale[c] * pixel[c] + bias[c]``, after an optional swap of the
first and third channel.
"""

from __future__ import annotations

import numpy as np

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ConfigError
from tnn_serving.graph import Input
from tnn_serving.pictures.conversion import PictureInput


def pixels(
    g: Builder, item: Input, picture: PictureInput, dims: tuple[int, ...], symbols: tuple[int | str, ...]
) -> tuple[Value, Value]:
    """The uint8 graph input [N, H, W, C] and the float32 blob [N, C, H, W] made from it.

    Args:
        item: the network's input, NCHW.
        dims: its dims at the default shapes, NCHW.
        symbols: the dims to declare, NCHW.

    Raises:
        ConfigError: the input is no picture, or scale, bias or the swap do not fit its channels.
    """
    if len(item.dims) != 4:
        raise ConfigError(f"input `{item.name}` is no picture", expected="4 dims [N, C, H, W]", found=list(item.dims))
    channels = item.dims[1]
    for what, values in (("scale", picture.scale), ("bias", picture.bias)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"`{what}` does not fit input `{item.name}`", expected=f"1 or {channels} numbers", found=len(values)
            )
    if picture.reverse_channel and channels not in (3, 4):
        raise ConfigError(f"`reverse_channel` needs 3 channels, input `{item.name}` has {channels}")
    n, _, h, w = dims
    ns, _, hs, ws = symbols
    entry = g.input(item.name, np.dtype(np.uint8), (n, h, w, channels), (ns, hs, ws, channels))
    g.scope = item.name
    x = g.op("Transpose", g.cast(entry, np.float32), perm=[0, 3, 1, 2])
    if picture.reverse_channel:
        x = g.op("Gather", x, g.ints(2, 1, 0, *range(3, channels)), axis=1)
    if any(value != 1.0 for value in picture.scale):
        x = g.op("Mul", x, g.per_channel(np.array(picture.scale, np.float32), x))
    if any(value != 0.0 for value in picture.bias):
        x = g.op("Add", x, g.per_channel(np.array(picture.bias, np.float32), x))
    g.scope = ""
    return entry, x
