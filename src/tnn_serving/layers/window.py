"""Windows that slide over spatial axes: TNN's padding types as ONNX attributes or shape arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode

EXPLICIT, SAME, VALID = -1, 0, 1
PAD_TYPES = {EXPLICIT: "explicit", SAME: "SAME", VALID: "VALID"}


@dataclass(frozen=True, slots=True)
class OnnxWindow:
    """Kernel, step, pads before and behind, and dilation of a window operator of ONNX, for each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_type: int = EXPLICIT

    def even_pads(self) -> tuple[int, ...]:
        """The pads, which are the same on both sides. Raises UnsupportedLayer if they are not."""
        if self.begins != self.ends:
            raise UnsupportedLayer("TNN pads both sides of an axis equally", found=f"pads {[*self.begins, *self.ends]}")
        return self.begins


def onnx_window(node: OnnxNode, kernel: Sequence[int]) -> OnnxWindow:
    """The window of Conv, ConvTranspose or a pooling; ``kernel`` where the node does not say it.

    Raises UnsupportedLayer for pads that TNN computes otherwise.
    """
    attributes = node.attributes
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "SAME_LOWER":
        raise UnsupportedLayer("TNN pads behind rather than in front where the two differ", found=f"auto_pad {auto}")
    axes = len(kernel)
    stride = tuple(attributes.get("strides", (1,) * axes))
    pads = tuple(attributes.get("pads", (0,) * 2 * axes) if auto == "NOTSET" else (0,) * 2 * axes)
    if auto == "SAME_UPPER":  # TNN computes them anew for each size; a file has those in front, of the usual size
        sizes = node.need(0).dims[2:]
        pads = tuple(_same_front(*axis) for axis in zip(sizes, kernel, stride, strict=True)) * 2
    return OnnxWindow(
        tuple(attributes.get("kernel_shape", kernel)),
        stride,
        pads[:axes],
        pads[axes:],
        tuple(attributes.get("dilations", (1,) * axes)),
        SAME if auto == "SAME_UPPER" else EXPLICIT,
    )


def _same_front(size: int | None, kernel: int, stride: int) -> int:
    """The pad in front that SAME has for a size; 0 for one that is not known."""
    return 0 if size is None else max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2


def same_valid(
    g: Builder, x: Value, *, pad_type: int, kernel: Sequence[int], reach: Sequence[int], stride: Sequence[int]
) -> Value:
    """Pads and crops the spatial axes of ``x`` so that a convolution without padding gives TNN's SAME or VALID.

    Per axis with size n, kernel k and stride s: out = ceil(n/s) for SAME, ceil((n-k+1)/s) for VALID; the total
    t = (out-1)*s + k - n is split t/2 (toward zero) in front. A negative front crops: TNN's first window then
    starts inside the input, where TensorFlow's starts at 0. What is behind follows from the size of the output.

    Args:
        kernel: sizes that decide output and front.
        reach: sizes of the windows, dilation included.
    """
    axes = range(2, 2 + len(kernel))
    fronts, crops, ends, backs = [], [], [], []
    one = g.ints(1)
    for axis, k, ke, s in zip(axes, kernel, reach, stride, strict=True):
        n = g.size(x, axis)
        step = g.ints(s)
        starts = n if pad_type == 0 else g.op("Sub", n, g.ints(k - 1))
        out = g.op("Div", g.op("Add", starts, g.ints(s - 1)), step)
        last = g.op("Mul", g.op("Sub", out, one), step)
        span = g.op("Add", last, g.ints(ke))
        total = g.op("Sub", g.op("Add", last, g.ints(k)), n)
        zero = g.ints(0)
        front = g.op("Div", g.op("Max", total, zero), g.ints(2))
        crop = g.op("Div", g.op("Max", g.op("Sub", zero, total), zero), g.ints(2))
        back = g.op("Max", g.op("Sub", g.op("Sub", span, g.op("Sub", n, crop)), front), zero)
        fronts.append(front)
        crops.append(crop)
        ends.append(n)
        backs.append(back)
    order = g.ints(*axes)
    cropped = g.op("Slice", x, g.op("Concat", *crops, axis=0), g.op("Concat", *ends, axis=0), order)
    pads = g.op("Concat", *fronts, *backs, axis=0)
    return g.op("Pad", cropped, pads, None, order)


def window(
    g: Builder,
    x: Value,
    *,
    pad_type: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    undilated: bool = False,
) -> tuple[Value, dict[str, Any]]:
    """The input and the ONNX padding attributes that give a convolution TNN's padding, at any size of the input.

    Explicit pads, SAME at stride 1 and VALID at strides up to 2 need no shape arithmetic. SAME with a stride is
    ONNX's SAME_UPPER where its first window does not start inside the input; ONNX Runtime refuses that attribute
    with dilation, so such layers, and the cropping ones, compute their pads from the size.

    Args:
        pads: zeros before and behind, for each axis; only explicit padding looks at them.
        undilated: SAME and VALID ignore the dilation of the kernel, as TNN does for one axis.

    Raises UnsupportedLayer for pad types that TNN refuses, ShapeError for strides or kernels below 1.
    """
    if any(s < 1 for s in stride) or any(k < 1 for k in kernel) or any(d < 1 for d in dilation):
        raise ShapeError(
            "kernel, stride and dilation must be at least 1",
            found=f"kernel {tuple(kernel)}, stride {tuple(stride)}, dilation {tuple(dilation)}",
        )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    counted = list(kernel) if undilated else reach
    if pad_type == -1:
        return x, {"pads": [*(front for front, _ in pads), *(back for _, back in pads)]}
    if pad_type == 0 and all(s == 1 for s in stride):
        fronts = [(k - 1) // 2 for k in counted]
        return x, {"pads": [*fronts, *(ke - 1 - front for ke, front in zip(reach, fronts, strict=True))]}
    if (
        pad_type == 0
        and all(d == 1 for d in dilation)
        and all(s - ke <= 1 for s, ke in zip(stride, reach, strict=True))
    ):
        return x, {"auto_pad": "SAME_UPPER"}
    none = [0] * len(reach)
    if pad_type == 1 and all(s <= 2 for s in stride):
        return x, {"pads": [*none, *(ke - k for ke, k in zip(reach, counted, strict=True))]}
    if pad_type in (0, 1):
        padded = same_valid(g, x, pad_type=pad_type, kernel=counted, reach=reach, stride=stride)
        return padded, {"pads": [*none, *none]}
    raise UnsupportedLayer("padding type is not supported", expected=PAD_TYPES, found=pad_type)


def check_filled(x: Value) -> None:
    """Raises ShapeError for an input without elements, at which OpenVINO gives other dims or ends the process."""
    if 0 in x.dims:
        raise ShapeError("input has no elements", expected="at least 1 on each axis", found=list(x.dims))


def check_extent(y: Value) -> Value:
    """The result of a window operator. Raises ShapeError if the window does not fit the input anywhere."""
    if any(size is not None and size < 1 for size in y.dims[2:]):
        raise ShapeError("window does not fit the input", expected="at least 1 on each axis", found=list(y.dims))
    return y
