"""Random weights of one layer: numbers that depend on nothing but names and a seed.

Each tensor has a generator of its own, seeded by the CRC-32 of ``network/layer/field/seed``. Only the frozen uniform
generator of ``numpy.random.RandomState`` and IEEE arithmetic in float64 are used, so the numbers are the same
everywhere; each is rounded to float32 once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnn_serving.emit.builder import Value
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.tensor import PROTO_V1, Tensor

BLOB_SCALE = 0.05
"""Scale of every int8 blob."""

CODE_STEP = 73.0
"""Standard deviation of int8 codes that are uniform in -127 ... 127."""


def uniform(network: str, layer: str, field: str, count: int, seed: int) -> np.ndarray:
    """``count`` float64 numbers in [-1, 1) that depend on nothing but the arguments."""
    state = np.random.RandomState(zlib.crc32(f"{network}/{layer}/{field}/{seed}".encode()))
    return 2.0 * state.random_sample(count) - 1.0


def stored(values: np.ndarray) -> Tensor:
    """A buffer of version 1, without dims, as the recorded networks had them."""
    return Tensor.of(values, version=PROTO_V1)


def channels(x: Value) -> int:
    """Size of axis 1; 1 for a blob without one."""
    return x.dim(1) if x.rank > 1 else 1


def _fan(dims: Sequence[int]) -> int:
    """Products per sum of weights [rows, ...]; 1 where there are none."""
    return max(math.prod(dims[1:]), 1)


@dataclass(frozen=True, slots=True)
class Draw:
    """The weights of one layer.

    Attributes:
        network, layer, seed: what the numbers depend on.
        gain: ratio of the standard deviations of a product's output and input.
        limits: of the memory for a tensor.
    """

    network: str
    layer: str
    seed: int
    gain: float = 1.0
    limits: Limits = UNLIMITED

    def uniform(self, field: str, count: int) -> np.ndarray:
        """``count`` float64 numbers in [-1, 1). Raises LimitError for more than there may be."""
        # With what the arithmetic needs besides.
        self.limits.check_tensor((3, count), np.dtype(np.float64))
        return uniform(self.network, self.layer, field, count, self.seed)

    def around(self, field: str, count: int, middle: float) -> Tensor:
        """float32 [count] around a middle: within 0.2, or within 0.1 around 0."""
        spread = 0.2 if middle else 0.1
        return stored((middle + spread * self.uniform(field, count)).astype(np.float32))

    def per_channel(self, field: str, x: Value, middle: float) -> Tensor:
        """float32 around a middle, one per channel (axis 1) of ``x``, or a single one where it has no such axis."""
        return self.around(field, channels(x), middle)

    def integers_per_channel(self, field: str, x: Value, least: int) -> Tensor:
        """Integers from ``least`` to ``least + 3`` of the type of ``x``, as many as :meth:`per_channel` gives."""
        return stored(np.floor((self.uniform(field, channels(x)) + 1) * 2 + least).astype(x.dtype))

    def filters(self, dims: Sequence[int]) -> Tensor:
        """float32 [rows, ...] that keeps the size of activations, times the gain."""
        factor = math.sqrt(3.0) * self.gain / math.sqrt(_fan(dims))
        return stored((self.uniform("filter", math.prod(dims)) * factor).astype(np.float32).reshape(dims))

    def bias(self, count: int) -> Tensor:
        """float32 [count] within 0.1 around 0."""
        return stored(self._small(count).astype(np.float32))

    def codes(self, dims: Sequence[int]) -> Tensor:
        """int8 [rows, ...] in -127 ... 127."""
        values = np.floor((self.uniform("filter", math.prod(dims)) + 1) * 127.5 - 127)
        return stored(np.clip(values, -127, 127).astype(np.int8).reshape(dims))

    def code_scale(self, dims: Sequence[int]) -> np.ndarray:
        """float32 [rows]: scale of :meth:`codes` of these dims, the scale of the input included."""
        spread = 1 + 0.2 * self.uniform("scale", dims[0])
        return ((self.gain / math.sqrt(_fan(dims)) / CODE_STEP * spread) * BLOB_SCALE).astype(np.float32)

    def code_bias(self, scale: np.ndarray) -> Tensor:
        """int32 [rows] of the real numbers of :meth:`bias`, in steps of ``scale``."""
        return stored(np.floor(self._small(scale.size) / scale.astype(np.float64)).astype(np.int32))

    def _small(self, count: int) -> np.ndarray:
        return self.uniform("bias", count) * 0.1

    def product(self, field: str, dims: Sequence[int], *, quantized: bool, bias: int) -> dict[str, Tensor | int]:
        """Weights of a product by field name: filter or matrix, scale of its codes, bias.

        Args:
            field: name of the field for filter or matrix.
            dims: of that one, [rows, ...].
            quantized: the weights are int8 codes.
            bias: values of the bias; 0 for none.
        """
        if not quantized:
            return {field: self.filters(dims), **({"bias": self.bias(bias)} if bias else {})}
        scale = self.code_scale(dims)
        made: dict[str, Tensor | int] = {field: self.codes(dims), "scale": stored(scale)}
        return {**made, "bias": self.code_bias(scale)} if bias else made
