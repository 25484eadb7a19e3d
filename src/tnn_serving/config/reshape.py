"""Triton's ``reshape``: clients see ``dims``, the network has ``shape``.

Triton applies it itself: a backend gets requests with ``shape``, and what it answers with ``shape`` leaves with
``dims``. The first -1 of one is the first -1 of the other, and so on. This module checks Triton's rules for it
(``ValidateIOShape`` in its core), and that an answer has ``shape``, which Triton takes for granted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from tnn_serving.config.model_config import TensorConfig
from tnn_serving.errors import ConfigError


def check_reshape(tensor: TensorConfig, *, batched: bool) -> None:
    """Checks the dims of a tensor, and its ``reshape`` if it has one.

    Raises:
        ConfigError: a dim that is neither positive nor -1, or a ``reshape`` that holds other elements than ``dims``.
    """
    for field, sizes in (("dims", tensor.dims), ("reshape", tensor.reshape or ())):
        if any(size < 1 and size != -1 for size in sizes):
            raise ConfigError(f"`{field}` has an impossible dim", expected="positive numbers, or -1", found=list(sizes))
    if tensor.reshape is None:
        return
    dims, shape = list(tensor.dims), list(tensor.reshape)
    if not shape and not batched:
        raise ConfigError(
            "`reshape` is empty, and Triton has no scalars without a batch",
            expected="no `reshape`: dims [ 1 ] are a scalar where max_batch_size is 0",
        )
    if dims.count(-1) != shape.count(-1):
        raise ConfigError("`dims` and `reshape` differ in the number of free dims", expected=dims, found=shape)
    if _between_free(dims) != _between_free(shape):
        what = "have other elements between their free dims" if -1 in dims else "differ in the number of elements"
        raise ConfigError(f"`dims` and `reshape` {what}", expected=dims, found=shape)


def _between_free(dims: Sequence[int]) -> list[int]:
    """Elements before the first -1, between it and the next one, and so on."""
    free = [-1, *(k for k, dim in enumerate(dims) if dim == -1), len(dims)]
    return [math.prod(dims[start + 1 : end]) for start, end in pairwise(free)]


def has_shape(shape: Sequence[int | None], wanted: Sequence[int]) -> bool:
    """Whether a shape is the wanted one, where -1 is any size and ``None`` a size that is not known."""
    return len(shape) == len(wanted) and all(
        have is None or want in (-1, have) for have, want in zip(shape, wanted, strict=True)
    )
