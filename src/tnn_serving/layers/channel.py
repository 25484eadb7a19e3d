"""Layers that move elements between channels and positions, or between channels."""

from __future__ import annotations

from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import FLOAT, Operand
from tnn_serving.layers.parameters import CBool, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.shape import joined

DCR, CRD = 0, 1
SHUFFLE_MODES = {DCR: "DCR: channels vary fastest", CRD: "CRD: positions in a block vary fastest"}


def shuffled(g: Builder, x: Value, group: int) -> Value:
    """``x`` [N, C, ...] with channel i * (C / group) + j moved to j * group + i. Raises ShapeError if C % group."""
    if group < 1 or x.dim(1) % group:
        raise ShapeError(f"channels cannot be cut into {group} groups", found=list(x.dims))
    channels = x.known[1]
    if channels is not None:
        y = g.reshape(x, 0, group, channels // group, -1)
    else:
        # With -1 at the channels, an engine refuses a number of them that the groups do not divide.
        y = g.op("Reshape", x, joined(g, [0, group, -1, *(g.size(x, axis) for axis in range(2, x.rank))]))
    swapped = g.op("Transpose", y, perm=[0, 2, 1, *range(3, y.rank)])
    return g.op("Reshape", swapped, g.shape(x))


def _depth_to_space(g: Builder, x: Value, block: int, mode: str) -> Value:
    """Raises ShapeError for channels that the block's area does not divide."""
    if block < 1 or not x.dim(1) or x.dim(1) % (block * block):
        raise ShapeError(
            "channels do not fit the block", expected=f"a multiple of {block} x {block}", found=f"{x.dim(1)} channels"
        )
    return g.op("DepthToSpace", x, blocksize=block, mode=mode)


@layer(63, "ShuffleChannel")
class ShuffleChannel(Layer):
    """Interleaves groups of channels, as ShuffleNet does.

    ONNX: Reshape, Transpose, Reshape.
    """

    operands = (Operand("x", "[N, C, ...]"),)
    results = (Operand("y", "as x", like="x", doc="channel i * (C / group) + j goes to j * group + i"),)
    made_from = ("Reshape(Transpose(Reshape(x, _)), _)",)

    group: int = token("groups; divides C", default=1, ge=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """[N, C, ...] to [N, group, C / group, ...], its two axes changed, and back."""
        x, transposed = m["x"], m.node("Transpose")
        wide = transposed.need(0)
        swapped = [0, 2, 1, *range(3, wide.rank)]
        fits = wide.rank > 2 and list(transposed.attributes.get("perm", ())) == swapped and m.y.dims == x.dims
        if not fits or None in wide.dims[1:3] or x.rank < 3 or wide.dims[0] != x.dims[0]:
            return None
        group, inner = wide.dims[1] or 0, wide.dims[2] or 0
        return cls.made(m, x, group=group) if group * inner == x.dims[1] else None

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError if the groups do not divide the channels."""
        return shuffled(g, x, self.group)


@layer(303, "PixelShuffle")
class PixelShuffle(Layer):
    """Channels become positions, as in sub-pixel convolution.

    ONNX: DepthToSpace, mode CRD.
    """

    operands = (Operand("x", "[N, C * r * r, H, W]", FLOAT),)
    results = (
        Operand("y", "[N, C, H * r, W * r]", FLOAT, doc="y[n, c, h*r + i, w*r + j] = x[n, c*r*r + i*r + j, h, w]"),
    )
    made_from = ("DepthToSpace(x)", "Reshape(Transpose(Reshape(x, _)), _)")

    upscale_factor: int = token("r", ge=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """In mode CRD, or as exporters spell it: two axes of size r move from the channels behind rows and columns."""
        x = m["x"]
        if m.has("DepthToSpace"):
            return cls.made(m, x, upscale_factor=m.attribute("blocksize")) if m.attribute("mode") == "CRD" else None
        wide = m.node("Transpose").need(0)
        if x.rank != 4 or wide.rank != 6 or list(m.node("Transpose").attributes.get("perm", ())) != [0, 1, 4, 2, 5, 3]:
            return None
        n, c, r, s, h, w = wide.dims
        fits = r == s and r is not None and (n, h, w) == (x.dims[0], x.dims[2], x.dims[3]) and c == m.y.dims[1]
        return (
            cls.made(m, x, upscale_factor=r) if fits and m.y.rank == 4 and m.y.dims[2] == (h or 0) * (r or 0) else None
        )

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError if r * r does not divide the channels."""
        return _depth_to_space(g, x, self.upscale_factor, "CRD")


@layer(131, "Reorg")
class Reorg(Layer):
    """Moves channels into blocks of positions (``forward``), or blocks into channels.

    With D channels on the wide side, position (i, j) of a block of channel c is, on the deep side, channel
    (i*s + j) * D + c in mode DCR and c * s^2 + i*s + j in mode CRD.

    ONNX: DepthToSpace forward; else SpaceToDepth, and for CRD the channels shuffled (Reshape, Transpose, Reshape).
    TNN differs: "forward" is the opposite of Darknet's.
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT),)
    results = (Operand("y", "[N, C / s^2, H * s, W * s]", FLOAT, doc="forward; else [N, C * s^2, H / s, W / s]"),)
    made_from = ("DepthToSpace(x)", "SpaceToDepth(x)")

    stride: int = token("s, the side of a block", ge=1)
    forward: CBool = token("0: blocks to channels, else channels to blocks")
    unused: int = token("ignored by TNN", default=0, written="0")
    mode: int = token("order of the channels", values=SHUFFLE_MODES)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        crd = m.attribute("mode", "DCR") == "CRD"
        forward = CBool(int(m.has("DepthToSpace")))
        return cls.made(m, m["x"], stride=m.attribute("blocksize"), forward=forward, mode=CRD if crd else DCR)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError if the stride does not divide what it has to."""
        if self.mode not in SHUFFLE_MODES:
            raise UnsupportedLayer("mode is unknown", expected=SHUFFLE_MODES, found=self.mode)
        if self.forward:
            return _depth_to_space(g, x, self.stride, "CRD" if self.mode == CRD else "DCR")
        if self.stride < 1 or x.dim(2) % self.stride or x.dim(3) % self.stride:
            raise ShapeError(
                "height and width must be multiples of the stride", expected=self.stride, found=list(x.dims)
            )
        y = g.op("SpaceToDepth", x, blocksize=self.stride)
        return shuffled(g, y, self.stride * self.stride) if self.mode == CRD else y
