"""Functions of elements."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import onnx

from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode, OnnxValue


@lowers("Sinh")
def _sinh(s: Origin, n: OnnxNode) -> OnnxValue:
    """(e^x - e^-x) / 2."""
    x = n.need(0)
    return s.op("Mul", s.op("Sub", s.op("Exp", x), s.op("Exp", s.op("Neg", x))), s.like(x, 0.5))


@lowers("Cosh")
def _cosh(s: Origin, n: OnnxNode) -> OnnxValue:
    """(e^x + e^-x) / 2."""
    x = n.need(0)
    return s.op("Mul", s.op("Add", s.op("Exp", x), s.op("Exp", s.op("Neg", x))), s.like(x, 0.5))


@lowers("Asinh")
def _asinh(s: Origin, n: OnnxNode) -> OnnxValue:
    """sign(x) log(|x| + sqrt(x^2 + 1))."""
    x = n.need(0)
    size = s.op("Abs", x)
    root = s.op("Sqrt", s.op("Add", s.op("Mul", x, x), s.like(x, 1)))
    return s.op("Mul", s.op("Sign", x), s.op("Log", s.op("Add", size, root)))


@lowers("Acosh")
def _acosh(s: Origin, n: OnnxNode) -> OnnxValue:
    """log(x + sqrt(x^2 - 1))."""
    x = n.need(0)
    return s.op("Log", s.op("Add", x, s.op("Sqrt", s.op("Sub", s.op("Mul", x, x), s.like(x, 1)))))


@lowers("Atanh")
def _atanh(s: Origin, n: OnnxNode) -> OnnxValue:
    """log((1 + x) / (1 - x)) / 2."""
    x = n.need(0)
    quotient = s.op("Div", s.op("Add", s.like(x, 1), x), s.op("Sub", s.like(x, 1), x))
    return s.op("Mul", s.op("Log", quotient), s.like(x, 0.5))


@lowers("Round")
def _rounded(s: Origin, n: OnnxNode) -> OnnxValue:
    """Half to even: floor(x + 1/2), one less where x + 1/2 is an odd whole number."""
    x = n.need(0)
    if not x.is_float:
        return s.op("Identity", x)
    up = s.op("Floor", s.op("Add", x, s.like(x, 0.5)))
    tie = s.op("Equal", s.op("Sub", up, x), s.like(x, 0.5))
    odd = s.op("Sub", up, s.op("Mul", s.op("Floor", s.op("Mul", up, s.like(x, 0.5))), s.like(x, 2)))
    return s.op("Sub", up, s.op("Mul", odd, s.op("Cast", tie, to=type_code(x))))


def type_code(x: OnnxValue) -> int:
    """The number of an element type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(x.dtype))


@lowers("Mod")
def _modulo(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """a - b * floor(a / b); with ``fmod``, or of whole numbers whose division truncates, corrected by the sign."""
    a, b = n.need(0), n.need(1)
    if str(a.dtype).startswith("u"):
        rest = s.op("Sub", a, s.op("Mul", b, s.op("Div", a, b)))
        return rest if a.dtype in (np.uint8, np.uint16) else None
    if n.attributes.get("fmod", 0):
        if not a.is_float:
            return s.op("Sub", a, s.op("Mul", b, s.op("Div", a, b)))
        size = s.op("Abs", a), s.op("Abs", b)
        whole = s.op("Floor", s.op("Div", *size))
        return s.op("Mul", s.op("Sign", a), s.op("Sub", size[0], s.op("Mul", size[1], whole)))
    if a.is_float:
        return None
    rest = s.op("Sub", a, s.op("Mul", b, s.op("Div", a, b)))
    wrong = s.op("Less", s.op("Mul", s.op("Sign", rest), s.op("Sign", b)), s.like(a, 0))
    return s.op("Add", rest, s.op("Mul", b, s.op("Cast", wrong, to=type_code(a))))


@lowers("IsNaN")
def _is_nan(s: Origin, n: OnnxNode) -> OnnxValue:
    """What is not equal to itself."""
    x = n.need(0)
    return s.op("Not", s.op("Equal", x, x))


@lowers("IsInf")
def _is_infinite(s: Origin, n: OnnxNode) -> OnnxValue:
    """Beyond the largest number."""
    x = n.need(0)
    most = float(np.finfo(np.float16 if x.dtype == np.float16 else np.float32).max)
    signs = [sign for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if n.attributes.get(name, 1)]
    y = s.op("Abs", x) if len(signs) == 2 else s.op("Mul", x, s.like(x, (signs or [0])[0]))
    if not signs:
        return s.op("Less", s.op("Abs", x), s.like(x, -1))
    return s.op("Greater", y, s.like(x, most))


@lowers("Sum", "Mean")
def _total(s: Origin, n: OnnxNode) -> OnnxValue:
    """Two by two."""
    given = [value for value in n.inputs if value is not None]
    y = reduce(lambda a, b: s.op("Add", a, b), given)
    return y if n.op_type == "Sum" else s.op("Mul", y, s.like(y, 1 / len(given)))


@lowers("Pow")
def _power(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """e^(b log a) where the exponent is computed or whole numbers are raised; whole exponents keep the sign of a."""
    a, b = n.need(0), n.need(1)
    if not a.is_float:
        if not b.constant or b.fixed().size != 1 or not 1 <= b.scalar() <= 8 or b.scalar() != int(b.scalar()):
            wide = s.op("Pow", s.op("Cast", a, to=1), b if b.is_float else s.op("Cast", b, to=1))
            return s.op("Cast", s.op("Round", wide), to=type_code(a))
        return reduce(lambda x, _: s.op("Mul", x, a), range(int(b.scalar()) - 1), a)
    if b.constant and b.fixed().size == 1 and b.rank <= a.rank:
        return None
    b = b if b.is_float else s.op("Cast", b, to=type_code(a))
    size = s.op("Abs", a)
    safe = s.op("Max", size, s.like(a, np.finfo(np.float32).tiny))
    y = s.op("Exp", s.op("Mul", b, s.op("Log", safe)))
    zero = s.op("Equal", size, s.like(a, 0))
    none = s.op("Equal", b, s.like(b, 0))
    y = s.op("Where", zero, s.op("Cast", none, to=type_code(a)), y)
    half = s.op("Mul", b, s.like(b, 0.5))
    odd = s.op("Mul", s.op("Sub", half, s.op("Floor", half)), s.like(b, 2))
    sign = s.op("Sub", s.like(a, 1), s.op("Mul", odd, s.like(b, 2)))
    return s.op("Where", s.op("Less", a, s.like(a, 0)), s.op("Mul", y, sign), y)


@lowers("PRelu")
def _parametric(s: Origin, n: OnnxNode) -> OnnxValue:
    """max(x, 0) + slope * min(x, 0) for slopes of any shape."""
    x, slope = n.need(0), n.need(1)
    zero = s.like(x, 0)
    return s.op("Add", s.op("Max", x, zero), s.op("Mul", slope, s.op("Min", x, zero)))


@lowers("LeakyRelu")
def _leaky(s: Origin, n: OnnxNode) -> OnnxValue:
    """Of a vector, which has no channels."""
    x = n.need(0)
    return s.op("PRelu", x, s.like(x, n.attributes.get("alpha", 0.01)))


@lowers("Relu")
def _relu(s: Origin, n: OnnxNode) -> OnnxValue:
    """Of whole numbers, the larger of x and 0."""
    x = n.need(0)
    return s.op("Max", x, s.like(x, 0))


@lowers("Clip")
def _clipped(s: Origin, n: OnnxNode) -> OnnxValue:
    """By computed limits, or of whole numbers: the larger, then the smaller."""
    x, low, high = n.need(0), n.input(1), n.input(2)
    y = x if low is None else s.op("Max", x, low)
    y = y if high is None else s.op("Min", y, high)
    return y if y is not x else s.add("Identity", [x], [s.fresh(f"{x.name}.same")], {}, n.opset, kept=True)[0]


@lowers("Gelu")
def _gelu(s: Origin, n: OnnxNode) -> OnnxValue:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the approximation."""
    x = n.need(0)
    cube = s.op("Mul", s.op("Mul", s.op("Mul", x, x), x), s.like(x, 0.044715))
    inner = s.op("Tanh", s.op("Mul", s.op("Add", x, cube), s.like(x, math.sqrt(2 / math.pi))))
    return s.op("Mul", s.op("Mul", x, s.like(x, 0.5)), s.op("Add", inner, s.like(x, 1)))


@lowers("CumSum")
def _cumulative(s: Origin, n: OnnxNode) -> OnnxValue:
    """A product with a triangle of ones, along an axis of a known size."""
    x, axis = n.need(0), int(n.need(1).scalar())
    if not x.is_float:
        return s.op("Cast", s.op("CumSum", s.op("Cast", x, to=1), n.need(1), **n.attributes), to=type_code(x))
    size = x.known[x.axis(axis)]
    if size is None:
        raise UnsupportedLayer("TNN has no running sums over a free size", found=f"axis {axis}")
    triangle = np.tri(size, k=-1 if n.attributes.get("exclusive", 0) else 0, dtype=np.float32).T
    if n.attributes.get("reverse", 0):
        triangle = triangle.T
    return along(s, x, x.axis(axis), triangle)


def along(s: Origin, x: OnnxValue, axis: int, matrix: np.ndarray) -> OnnxValue:
    """An axis of ``x`` times a matrix [size, new size]."""
    order = [k for k in range(x.rank) if k != axis] + [axis]
    back = [order.index(k) for k in range(x.rank)]
    moved = x if order == sorted(order) else s.op("Transpose", x, perm=order)
    y = s.op("MatMul", moved, s.const(matrix, x.dtype))
    return y if order == sorted(order) else s.op("Transpose", y, perm=back)
