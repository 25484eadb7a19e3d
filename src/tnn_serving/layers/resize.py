"""Resizing and sampling of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import FURTHER, Layer
from tnn_serving.layers.operands import FLOAT, INT8, INTEGERS, Operand
from tnn_serving.layers.parameters import HW, INT32_MAX, pair, token
from tnn_serving.layers.pattern import Match, OnnxValue
from tnn_serving.layers.registry import layer
from tnn_serving.layers.window import check_filled

RESIZE_MODES = {1: "nearest", 2: "linear", 3: "cubic"}
SAMPLE_MODES = {1: "nearest", 2: "linear", 3: "cubic"}
SAMPLE_PADS = {0: "zeros", 1: "reflection", 2: "border"}
CUBIC_A = -0.75

SPLIT = 2**12 + 1
"""Dekker's constant, which splits a float32 into its upper 12 bits and the others."""


@layer(149, "Upsample", "QuantizedUpsample")
class Upsample(Layer):
    """Resizes the last two axes: nearest, bilinear or bicubic (a = -0.75, taps clamped to the border).

    With two inputs the second is ``scales``; the sizes need all four. TNN ignores all but x if there are more.

    ONNX: Resize: asymmetric with floor for nearest, else pytorch_half_pixel or align_corners; Gather, Mul and Add where
        bilinear int8 codes must be exact.
    TNN differs: positions follow from the sizes, never from the scales; nearest ignores align_corners; cubic
        resizing to one pixel without align_corners reads position -0.5.
    """

    operands = (
        Operand("x", "[N, C, H, W]", (*FLOAT, *INT8)),
        Operand("roi", optional=True, ignored=True),
        Operand(
            "scales",
            types=FLOAT,
            doc="H and W in the last two; ignored where sizes are given",
            optional=True,
            replaces=("scale_h", "scale_w"),
        ),
        Operand("sizes", types=INTEGERS, doc="H' and W' in the last two", optional=True, replaces=("size",)),
    )
    results = (Operand("y", "[N, C, H', W']", like="x", doc="the sizes, or H, W times the scales rounded half up"),)
    made_from = ("Resize(x, roi?, scales?, sizes?)",)

    mode: int = token("interpolation", values=RESIZE_MODES)
    scale_h: float = token("H' / H; unused when sizes are given")
    scale_w: float = token("W' / W; unused when sizes are given")
    align_corners: int = token(
        "whether corners map to corners; -1: not when both scales are at least 1",
        default=0,
        values={-1: "by scale", 0: "no", 1: "yes"},
    )
    size: HW | None = pair("H' and W'; 0 0 is a placeholder where an input gives them")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of height and width, at the positions that TNN takes."""
        x, scales, sizes = m["x"], m.get("scales"), m.get("sizes")
        if x.rank != 4 or not x.is_float or not _is_tnns(m.root.attributes, x, m.y):
            return None
        mode = {"nearest": 1, "linear": 2, "cubic": 3}[m.attribute("mode", "nearest")]
        aligned = int(m.attribute("coordinate_transformation_mode", "half_pixel") == "align_corners")
        if sizes is not None and sizes.dims:
            if not sizes.constant:
                return cls.made(
                    m, x, sizes, sizes, sizes, mode=mode, scale_h=0.0, scale_w=0.0, align_corners=aligned, size=HW(0, 0)
                )
            size = sizes.numbers()
            if size[:2] != list(x.dims[:2]):
                return None
            return cls.made(m, x, mode=mode, scale_h=0.0, scale_w=0.0, align_corners=aligned, size=HW(*size[2:]))
        factors = [] if scales is None else scales.fixed().reshape(-1).tolist()
        if len(factors) != 4 or factors[:2] != [1, 1]:
            return None
        if mode == 1 and any(factor != int(factor) for factor in factors):
            # TNN takes positions from the sizes, ONNX from the scales.
            return None
        ends = zip(x.known[2:], m.y.dims[2:], factors[2:], strict=True)
        if any(f != int(f) and (n is None or n * f != out) for n, out, f in ends):
            return None
        return cls.made(m, x, mode=mode, scale_h=factors[2], scale_w=factors[3], align_corners=aligned)

    def roles(self) -> tuple[Operand, ...]:
        """See the class."""
        x, roi, scales, sizes = self.operands
        unread = dataclasses.replace(scales, ignored=True)
        known = {1: (x,), 2: (x, scales), 3: (x, roi, scales), 4: (x, roi, unread, sizes)}
        return known.get(len(self.inputs), (x, *[FURTHER] * (len(self.inputs) - 1)))

    def to_onnx(self, g: Builder, x: Value, *given: Value | None) -> Value:
        """See the class."""
        return self._resize(g, x, *self._aim(g, x, given))

    def _aim(self, g: Builder, x: Value, given: Sequence[Value | None]) -> tuple[bool, Value | None, Value | None]:
        """Whether corners map to corners, and the target: whole factors float32 [2], or sizes int64 [2].

        Args:
            given: the inputs behind ``x``.
        """
        if self.mode not in RESIZE_MODES:
            raise UnsupportedLayer("interpolation is unknown", expected=RESIZE_MODES, found=self.mode)
        operands = dict(zip((role.name for role in self.roles()[1:]), given, strict=False))
        sizes = self._sizes(g, operands.get("sizes"))
        if sizes is not None:
            return self.align_corners != 0, None, sizes
        scales = operands.get("scales") or g.const([self.scale_h, self.scale_w])
        align = self.align_corners > 0
        if self.align_corners < 0:
            align = not bool(np.all(scales.fixed().reshape(-1)[-2:] >= 1))
        if scales.constant:
            factors = scales.fixed().reshape(-1)[-2:].astype(np.float32)
            if factors.size != 2 or not np.all(factors > 0):
                raise ShapeError("scales must be two positive numbers", found=factors.tolist())
            scales = g.const(factors)
            if np.all(factors == np.floor(factors)):
                return align, scales, None
        else:
            scales = g.op("Gather", g.reshape(scales, -1), g.ints(-2, -1), axis=0)
        rounded = g.op("Floor", g.op("Add", g.op("Mul", _plane(g, x), scales), g.const(0.5)))
        return align, None, g.cast(rounded, np.int64)

    def _sizes(self, g: Builder, given: Value | None) -> Value | None:
        """H' and W' as int64 [2], where they are given."""
        if given is not None:
            flat = g.reshape(g.cast(given, np.int64), -1)
            sizes = g.op("Gather", flat, g.ints(-2, -1), axis=0)
        elif self.size is not None and self.size != (0, 0):
            sizes = g.ints(*self.size)
        else:
            return None
        if sizes.sample is not None and (sizes.sample.size != 2 or sizes.sample.min() < 1):
            raise ShapeError("output sizes must be two positive numbers", found=sizes.sample.tolist())
        return sizes

    def _resize(self, g: Builder, x: Value, align: bool, factors: Value | None, sizes: Value | None) -> Value:
        scales = whole = None
        if factors is not None:
            scales = g.op("Concat", g.const(np.ones(2, np.float32)), factors, axis=0)
        if sizes is not None:
            whole = g.op("Concat", g.op("Slice", g.shape(x), g.ints(0), g.ints(2)), sizes, axis=0)
        if self.mode == 1:
            return g.op(
                "Resize",
                x,
                None,
                scales,
                whole,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        return g.op(
            "Resize",
            x,
            None,
            scales,
            whole,
            mode=RESIZE_MODES[self.mode],
            coordinate_transformation_mode="align_corners" if align else "pytorch_half_pixel",
            cubic_coeff_a=CUBIC_A if self.mode == 3 else None,
        )

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Resized real values without zero points, rounded; in the exact form bilinear ones by TNN's own sums."""
        (x,) = inputs.codes
        same = x.scale.per_tensor and out.per_tensor and x.scale.scale[0] == out.scale[0]
        if a.form.fast and self.mode == 1 and same:
            return Codes(self.to_onnx(a.g, x.value, *inputs.others), out)
        bare = Scale(x.scale.scale, np.zeros_like(x.scale.zero))
        real = a.real(Codes(x.value, bare))
        if a.form.fast or self.mode != 2:
            resized = self.to_onnx(a.g, real, *inputs.others)
        else:
            resized = _interpolated(a.g, real, *self._aim(a.g, real, inputs.others))
        quantised = a.quantised(resized, Scale(out.scale, np.zeros_like(out.zero)))
        return Codes(quantised.value, out)


def _is_tnns(attributes: Mapping[str, Any], x: OnnxValue, y: OnnxValue) -> bool:
    """Whether an ONNX Resize with these attributes takes the positions that TNN takes."""
    mode = attributes.get("mode", "nearest")
    place = attributes.get("coordinate_transformation_mode", "half_pixel")
    usual = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch"}
    if any(attributes.get(name, value) != value for name, value in usual.items()) or "axes" in attributes:
        return False
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", "round_prefer_floor")
        # At a whole factor, the nearest centre is the pixel that the new one is cut out of.
        whole = all(a and b and b % a == 0 for a, b in zip(x.known[2:], y.known[2:], strict=True))
        return (place, rounding) == ("asymmetric", "floor") or (
            whole and place in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer")
        )
    if mode == "cubic" and abs(attributes.get("cubic_coeff_a", CUBIC_A) - CUBIC_A) > 1e-6:
        return False
    alone = any(size == 1 for size in y.dims[2:])
    return place == "align_corners" or (place in ("half_pixel", "pytorch_half_pixel") and not alone)


def _plane(g: Builder, x: Value) -> Value:
    """H and W as float32."""
    return g.cast(g.op("Slice", g.shape(x), g.ints(2), g.ints(4)), np.float32)


def _interpolated(g: Builder, x: Value, align: bool, factors: Value | None, sizes: Value | None) -> Value:
    """Bilinear resizing with TNN's own sums, first along a row: Resize adds in an order that the engine chooses, which
    rounds values halfway between two codes to the other one."""
    wanted = g.op("Mul", _plane(g, x), factors) if sizes is None else g.cast(sizes, np.float32)
    for axis in (3, 2):
        n = g.cast(g.size(x, axis), np.float32)
        low, high, share = _taps(g, n, g.op("Slice", wanted, g.ints(axis - 2), g.ints(axis - 1)), align)
        rest = g.op("Sub", g.const(np.float32(1)), share)
        along = (-1,) if axis == 3 else (-1, 1)
        first = g.op("Mul", g.op("Gather", x, low, axis=axis), g.reshape(rest, *along))
        second = g.op("Mul", g.op("Gather", x, high, axis=axis), g.reshape(share, *along))
        x = g.op("Add", first, second)
    return x


def _taps(g: Builder, n: Value, wanted: Value, align: bool) -> tuple[Value, Value, Value]:
    """The two pixels around each new one, int64, and the share of the second, float32.

    Args:
        n, wanted: pixels there are and pixels to make, float32 [1].
    """
    one, half = g.const(np.float32(1)), g.const(np.float32(0.5))
    last = g.op("Sub", n, one)
    index = g.op("Range", g.const(np.float32(0)), g.op("Squeeze", wanted), one)
    if align:
        at = g.op("Mul", g.op("Div", last, g.op("Max", g.op("Sub", wanted, one), one)), index)
    else:
        # A single pixel is the first one.
        ratio = g.op("Where", g.op("Greater", wanted, one), g.op("Div", n, wanted), g.const(np.float32(0)))
        centre = g.op("Add", index, half)
        # TNN computes `ratio * centre - half` in float64. Of a ratio cut in two halves both products are exact, up to
        # 2048 pixels, so that the sum is rounded once here as well.
        scaled = g.op("Mul", ratio, g.const(np.float32(SPLIT)))
        upper = g.op("Sub", scaled, g.op("Sub", scaled, ratio))
        lower = g.op("Mul", g.op("Sub", ratio, upper), centre)
        at = g.op("Add", g.op("Sub", g.op("Mul", upper, centre), half), lower)
        at = g.op("Min", at, last)
    at = g.op("Max", at, g.const(np.float32(0)))
    low = g.op("Floor", at)
    high = g.op("Min", g.op("Add", low, one), last)
    return g.cast(low, np.int64), g.cast(high, np.int64), g.op("Sub", at, low)


@layer(323, "GridSample")
class GridSample(Layer):
    """Samples a picture at given positions, x and y from -1 to 1.

    ONNX: GridSample.
    TNN differs: knows only bilinear sampling with zeros outside and without align_corners.
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT), Operand("grid", "[N, H', W', 2]", FLOAT))
    results = (Operand("y", "[N, C, H', W']", FLOAT),)
    made_from = ("GridSample(x, grid)",)

    mode: int = token("interpolation", default=2, values=SAMPLE_MODES)
    pad_type: int = token("values outside of the picture", default=0, values=SAMPLE_PADS)
    align_corners: int = token("1: -1 and 1 are centres of corner pixels, not their edges", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of pictures; TNN itself computes only bilinear samples with zeros outside, corners not aligned."""
        if m["x"].rank != 4:
            raise UnsupportedLayer("TNN samples pictures only", found=list(m["x"].dims))
        modes = {**{name: mode for mode, name in SAMPLE_MODES.items()}, "bilinear": 2, "bicubic": 3}
        pads = {name: pad for pad, name in SAMPLE_PADS.items()}
        return cls.made(
            m,
            m["x"],
            m["grid"],
            mode=modes[m.attribute("mode", "linear")],
            pad_type=pads[m.attribute("padding_mode", "zeros")],
            align_corners=int(m.attribute("align_corners", 0)),
        )

    def to_onnx(self, g: Builder, x: Value, grid: Value) -> Value:
        """See the class."""
        if self.mode not in SAMPLE_MODES or self.pad_type not in SAMPLE_PADS:
            raise UnsupportedLayer(
                "sampling is unknown",
                expected=f"mode {SAMPLE_MODES}, pad_type {SAMPLE_PADS}",
                found=f"mode {self.mode}, pad_type {self.pad_type}",
            )
        return g.op(
            "GridSample",
            x,
            grid,
            mode=SAMPLE_MODES[self.mode],
            padding_mode=SAMPLE_PADS[self.pad_type],
            align_corners=int(self.align_corners != 0),
        )


@layer(317, "RoiAlign")
class RoiAlign(Layer):
    """Pools regions of a picture to one size, bilinear, without half-pixel shift.

    ONNX: RoiAlign (output_half_pixel).
    """

    operands = (
        Operand("x", "[N, C, H, W]", FLOAT),
        Operand("rois", "[R, n]", FLOAT, doc="x1, y1, x2, y2 in the first four columns"),
        Operand("indices", "[R]", INTEGERS, doc="the picture of each"),
    )
    results = (Operand("y", "[R, C, H', W']", FLOAT),)
    made_from = ("RoiAlign(x, rois, indices)",)

    mode: int = token("what is taken of the samples", default=1, values={0: "maximum", 1: "average"})
    output_height: int = token("H'", default=0, ge=1)
    output_width: int = token("W'", default=0, ge=1)
    sampling_ratio: int = token("samples per bin and axis; 0: as many as pixels", default=0)
    spatial_scale: float = token("pixels per unit of the rois", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Without half-pixel shift, which TNN does not have."""
        place = m.attribute("coordinate_transformation_mode", "half_pixel")
        if place != "output_half_pixel":
            raise UnsupportedLayer("TNN does not shift regions by half a pixel", found=place)
        return cls.made(
            m,
            m["x"],
            m["rois"],
            m["indices"],
            mode=int(m.attribute("mode", "avg") == "avg"),
            output_height=m.attribute("output_height", 1),
            output_width=m.attribute("output_width", 1),
            sampling_ratio=m.attribute("sampling_ratio", 0),
            spatial_scale=float(m.attribute("spatial_scale", 1.0)),
        )

    def to_onnx(self, g: Builder, x: Value, rois: Value, indices: Value) -> Value:
        """See the class."""
        if rois.dims[1] is not None and rois.dims[1] < 4:
            raise ShapeError("rois do not fit", expected="[R, 4]", found=list(rois.dims))
        if self.mode not in (0, 1):
            raise UnsupportedLayer("mode is unknown", expected="0 (maximum) or 1 (average)", found=self.mode)
        if self.output_height < 1 or self.output_width < 1:
            raise ShapeError("output size must be at least 1", found=f"{self.output_height} x {self.output_width}")
        check_filled(x)
        corners = rois if rois.dims[1] == 4 else g.op("Slice", rois, g.ints(0), g.ints(4), g.ints(1))
        # OpenVINO needs the 4 as a number; it reads foreign memory at a negative index, but refuses one too large.
        number = g.cast(indices, np.int64)
        number = g.op("Where", g.op("Less", number, g.const(np.int64(0))), g.const(np.int64(INT32_MAX)), number)
        return g.op(
            "RoiAlign",
            x,
            g.reshape(corners, -1, 4),
            number,
            mode="avg" if self.mode else "max",
            output_height=self.output_height,
            output_width=self.output_width,
            sampling_ratio=max(self.sampling_ratio, 0),
            spatial_scale=self.spatial_scale,
            coordinate_transformation_mode="output_half_pixel",
        )
