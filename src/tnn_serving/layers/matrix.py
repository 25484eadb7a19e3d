"""Products of matrices, and their inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_letters

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale, Weights
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.convolution import float_weight
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, LIKE_X, Operand
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import beside, buffer, entry_label, int8_scale, kept
from tnn_serving.tensor import Tensor


@layer(19, "InnerProduct", "InnerProduct_nhwc", "QuantizedInnerProduct", "DynamicRangeQuantizedInnerProduct")
class InnerProduct(Layer):
    """Fully connected layer: the axes from ``axis`` on are flattened to K and multiplied with a stored matrix.

    ONNX: Flatten, Gemm; Reshape if axis is not 1.
    TNN differs: only axis 1 computes what the output shape promises (a defect: all axes do here).
    """

    operands = (Operand("x", "[d0, ...]", FLOAT),)
    results = (Operand("y", types=FLOAT, doc="dims of x before the axis, then num_output"),)
    multiplies_weights = True
    made_from = ("Gemm(x, w, c?)", "Add(MatMul(x, w), c)")

    num_output: int = token("units", ge=1)
    has_bias: int = token("1 if the bias is added; it is stored in any case")
    transpose: int = token("ignored by TNN")
    axis: int = token("first flattened axis")

    label: str | None = entry_label()
    weight: Tensor | None = buffer("[num_output, K]")
    bias: Tensor | None = buffer("[num_output], or empty", may_be_empty=True)
    zero_point: Tensor | None = beside("[1] or [num_output] int8")
    scale: Tensor | None = int8_scale(
        "weight", "[1] or [num_output]; for int8 layers the input scale is in it", zero_points="zero_point"
    )

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of a matrix and stored weights, without factors."""
        x, w, c = m["x"], m["w"], m.get("c")
        attributes = m.root.attributes
        plain = all(
            attributes.get(name, wanted) == wanted for name, wanted in (("alpha", 1), ("beta", 1), ("transA", 0))
        )
        if x.rank != 2 or w.rank != 2 or not w.constant or not plain or (c is not None and not c.constant):
            return None
        rows = w.fixed() if attributes.get("transB", 0) else w.fixed().T
        units = rows.shape[0]
        if c is not None and (c.rank > 2 or c.fixed().size not in (1, units) or (c.rank == 2 and c.dims[0] != 1)):
            return None
        bias = np.zeros(units, np.float32) if c is None else np.broadcast_to(c.fixed().reshape(-1), units)
        return cls.made(
            m, x, num_output=units, has_bias=int(c is not None), transpose=0, axis=1, weight=kept(rows), bias=kept(bias)
        )

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """The matrix, and a bias if the layer adds one."""
        x = inputs[0]
        first = 1 if self.quantized else x.axis(self.axis)
        row = math.prod(x.dim(axis) for axis in range(first, x.rank))
        bias = self.num_output if self.has_bias else 0
        return draw.product("weight", (self.num_output, row), quantized=self.quantized, bias=bias)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        axis = x.axis(self.axis)
        if self.num_output < 1:
            raise ShapeError("num_output must be at least 1", found=self.num_output)
        matrix = self.need("weight")
        inner = math.prod(x.dim(k) for k in range(axis, x.rank))
        weights = float_weight(g, matrix, self.scale, dims=(self.num_output, inner))
        bias = None
        if self.has_bias and self.bias is not None and self.bias.size:
            bias = g.const(self.bias, np.float32, dims=(self.num_output,))
        flat = x if axis == 1 and x.rank == 2 else g.op("Flatten", x, axis=axis)
        y = g.op("Gemm", flat, weights, bias, transB=1)
        if axis == 1:
            return y
        outer = g.op("Slice", g.shape(x), g.ints(0), g.ints(axis))
        return g.op("Reshape", y, g.op("Concat", outer, g.ints(self.num_output), axis=0))

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Flattened from axis 1 on, as TNN's int8 layer does; the input's zero point is per channel."""
        (x,) = inputs.codes
        g = a.g
        shape = (self.num_output, math.prod(x.value.dim(k) for k in range(1, x.value.rank)))
        bias = self.bias if self.has_bias and _filled(self.bias) else None
        weights = Weights.of(self.need("weight"), shape, scale=self.scale, zero=self.zero_point, bias=bias)
        return a.linear(
            x,
            weights,
            out,
            apply=lambda v, rows, added: g.op("Gemm", v, rows, added, transB=1),
            move=lambda value: g.op("Flatten", value, axis=1),
        )


def _filled(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.size > 0


@layer(105, "MatMul", "DynamicRangeQuantizedMatMul")
class MatMul(Layer):
    """Matrix product as NumPy's ``matmul``: vectors are promoted, leading axes broadcast.

    ONNX: MatMul; Expand before it where the constant has batch axes.
    TNN differs: broadcasting inside of several batch axes pairs the wrong matrices (a defect).
    """

    operands = (
        Operand("a", "[k] or [..., m, k]", FLOAT),
        Operand("b", "[k] or [..., k, n]", FLOAT, doc="or one of the two is stored", optional=True),
    )
    results = (Operand("y", types=FLOAT, doc="[..., m, n]"),)
    counts_inputs = True
    multiplies_weights = True
    made_from = ("MatMul(a, b)",)

    weight_position: int = token(
        "which operand is stored", default=-1, values={-1: "none", 0: "the left one", 1: "the right one"}
    )

    weight: Tensor | None = buffer("[..., m, k] or [..., k, n], with dims")
    scale: Tensor | None = int8_scale("weight", "[1]")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """One of the two may be stored."""
        a, b = m["a"], m["b"]
        if not a.is_float:
            raise UnsupportedLayer("TNN multiplies matrices of floats only", found=a.dtype)
        if b.constant:
            return cls.made(m, a, weight_position=1, weight=kept(b.fixed()))
        if a.constant:
            return cls.made(m, b, weight_position=0, weight=kept(a.fixed()))
        return cls.made(m, a, b)

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class."""
        if len(inputs) == 2:
            return product(g, inputs[0], inputs[1])
        stored = self.need("weight")
        if stored.shape is None:
            raise WeightsError("the stored matrix has no dims", found=f"{stored.size} values")
        if self.scale is not None and self.scale.size != 1:
            raise WeightsError("scale of the matrix must be one value", found=f"{self.scale.size} values")
        matrix = float_weight(g, stored, self.scale, dims=stored.shape)
        if self.weight_position == 0:
            return product(g, matrix, inputs[0])
        if self.weight_position == 1:
            return product(g, inputs[0], matrix)
        raise UnsupportedLayer(
            "with one input, weight_position must name the stored operand",
            expected="0 or 1",
            found=self.weight_position,
        )


def product(g: Builder, a: Value, b: Value) -> Value:
    """``a @ b``. OpenVINO does not broadcast a dynamic operand to the batch axes of a constant: Expand does it."""
    if not a.rank or not b.rank:
        raise ShapeError("operand of a matrix product is a scalar", found=f"{list(a.dims)} and {list(b.dims)}")
    if a.constant and not b.constant:
        a, b = _flattened(g, a, b), _spread(g, b, a)
    elif b.constant and not a.constant:
        a, b = _spread(g, a, b), _flattened(g, b, a)
    return g.op("MatMul", a, b)


def _batch(constant: Value) -> tuple[int, ...]:
    return tuple(constant.dim(k) for k in range(constant.rank - 2))


def _flattened(g: Builder, constant: Value, other: Value) -> Value:
    """A constant without batch axes that make no difference, or with as many as the other operand has."""
    batch = _batch(constant)
    if not batch or constant.rank > other.rank:
        return constant
    matrix = (constant.dim(-2), constant.dim(-1))
    dims = matrix if all(n == 1 for n in batch) else (*(1,) * (other.rank - constant.rank), *batch, *matrix)
    return g.const(constant.fixed(), dims=dims)


def _spread(g: Builder, x: Value, constant: Value) -> Value:
    """The dynamic operand, expanded to the batch axes of the constant."""
    batch = _batch(constant)
    if x.rank < 2 or (constant.rank <= x.rank and all(n == 1 for n in batch)):
        return x
    return g.op("Expand", x, g.ints(*batch, 1, 1))


@layer(321, "Einsum")
class Einsum(Layer):
    """Sum of products over labelled axes, as NumPy's ``einsum``.

    ONNX: Einsum; Reshape for the full contraction.
    TNN differs: takes exactly two operands, and not two contracted axes beside others (defects).
    """

    operands = (
        Operand("a", types=FLOAT),
        Operand("b", types=FLOAT, doc="usually one", repeated=True),
    )
    results = (Operand("y", types=FLOAT, doc="the axes right of `->`; [1] for a full contraction over a shared label"),)
    made_from = ("Einsum(*x)",)

    equation: str = token("ONNX's equation with `;` in place of `,`", default="")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of two operands, which TNN takes."""
        if not all(value.is_float for value in m.rest):
            raise UnsupportedLayer("TNN has sums of products of floats only", found=m.y.dtype)
        return cls.made(m, *m.rest, equation=m.attribute("equation").replace(" ", "").replace(",", ";"))

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class. Raises ShapeError for a label of axes of different sizes."""
        self._check_labels(inputs)
        equation = self._full_equation(inputs)
        terms, arrow, result = equation.partition("->")
        y = g.op("Einsum", *inputs, equation=equation)
        labels = [set(term) for term in terms.split(",")]
        if arrow and not result.strip() and len(labels) > 1 and set.intersection(*labels):
            return g.reshape(y, 1)
        return y

    def _check_labels(self, inputs: Sequence[Value]) -> None:
        """Raises ShapeError unless a label has one size: ONNX's inference does not compare, and OpenVINO crashes."""
        sizes: dict[str, int] = {}
        for term, x in zip(self.equation.replace(" ", "").partition("->")[0].split(";"), inputs, strict=False):
            front, _, back = term.partition("...")
            if len(front) + len(back) > x.rank:
                continue
            for label, size in (*zip(front, x.dims, strict=False), *zip(back[::-1], x.dims[::-1], strict=False)):
                if size is not None and sizes.setdefault(label, size) != size:
                    raise ShapeError(f"axes labelled `{label}` differ in size", expected=sizes[label], found=size)

    def _full_equation(self, inputs: Sequence[Value]) -> str:
        """The equation as ONNX writes it; with labels for `...` where operands differ in the number of such axes."""
        equation = self.equation.replace(";", ",")
        terms, arrow, result = equation.partition("->")
        operands = terms.split(",")
        if len(operands) != len(inputs):
            raise ShapeError("equation does not fit", expected=f"{len(operands)} operands", found=len(inputs))
        extra = [
            x.rank - len(term.replace("...", "")) if "..." in term else 0
            for term, x in zip(operands, inputs, strict=True)
        ]
        if len({n for n, term in zip(extra, operands, strict=True) if "..." in term}) < 2:
            return equation
        free = [label for label in ascii_letters if label not in equation]
        batch = free[: max(extra)]
        operands = [
            term.replace("...", "".join(batch[len(batch) - n :])) for term, n in zip(operands, extra, strict=True)
        ]
        if not arrow:
            letters = terms.replace(".", "").replace(",", "")
            result = "..." + "".join(sorted(label for label in letters if letters.count(label) == 1))
        return ",".join(operands) + "->" + result.replace("...", "".join(batch))


@layer(322, "Inverse", entry=False)
class Inverse(Layer):
    """Inverse of 2 x 2 matrices; infinite or NaN where the determinant is 0.

    ONNX: Reshape, Gather, Mul and Sub for the adjugate and the determinant, Reciprocal, Reshape.
    """

    operands = (Operand("x", "[..., 2, 2]", FLOAT),)
    results = (LIKE_X,)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        flat = g.reshape(x, -1, 4)
        adjugate = g.op("Mul", g.op("Gather", flat, g.ints(3, 1, 2, 0), axis=1), g.const([1.0, -1.0, -1.0, 1.0]))
        products = g.op("Mul", g.op("Gather", flat, g.ints(0, 1), axis=1), g.op("Gather", flat, g.ints(3, 2), axis=1))
        determinant = g.op(
            "Sub", g.op("Gather", products, g.ints(0), axis=1), g.op("Gather", products, g.ints(1), axis=1)
        )
        return g.op("Reshape", g.op("Mul", adjugate, g.op("Reciprocal", determinant)), g.shape(x))
