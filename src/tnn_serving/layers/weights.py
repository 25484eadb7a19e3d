"""Weights of a layer: how the fields of its entry in the model file are declared."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from tnn_serving.tensor import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What is declared of one field of a layer's model-file entry.

    Attributes:
        doc: layout and meaning.
        form: "text" (a string), "flag" (int32), "byte" (1-byte bool) or "tensor" (a raw buffer).
        when: name of a flag field that says whether this one follows.
        when_int8: name of a tensor field; this one follows only if that tensor is int8.
        zero_points: name of the field for the int8 zero points that may precede the buffer.
        may_be_empty: an empty buffer means that there is none.
        parameter: the parameter that TNN's writer takes the flag from, whatever was stored.
        rewritten: what TNN's writer emits for a string: the layer's "name", the string that was read ("kept"), or an
            "empty" one.
        zeros_like: TNN's reader replaces an empty buffer with zeros, as many as this field has values.
        needs_dims: TNN's writer leaves the buffer out if it has no dims.
    """

    doc: str
    form: str
    when: str | None = None
    when_int8: str | None = None
    zero_points: str | None = None
    may_be_empty: bool = False
    parameter: str | None = None
    rewritten: Literal["name", "kept", "empty"] = "name"
    zeros_like: str | None = None
    needs_dims: bool = False
    name: str = ""


def entry_label(rewritten: Literal["name", "kept", "empty"] = "name") -> Any:
    """The string at the start of an entry, usually the layer's name again. It is ignored and written back."""
    return _stored(Stored("usually the layer's name again; ignored by TNN", "text", rewritten=rewritten))


def flag(doc: str, *, byte: bool = False, parameter: str | None = None) -> Any:
    """A stored 0 or 1 that says whether a buffer follows; an int32, or one byte."""
    return _stored(Stored(doc, "byte" if byte else "flag", parameter=parameter))


def buffer(
    doc: str,
    *,
    when: str | None = None,
    may_be_empty: bool = False,
    zeros_like: str | None = None,
    needs_dims: bool = False,
) -> Any:
    """A raw buffer; ``doc`` gives its layout. With ``when``, it is present only if that flag is not 0."""
    return _stored(Stored(doc, "tensor", when, may_be_empty=may_be_empty, zeros_like=zeros_like, needs_dims=needs_dims))


def int8_scale(of: str, doc: str, *, zero_points: str | None = None) -> Any:
    """The float scale that follows an int8 buffer ``of``; with ``zero_points``, int8 zero points may precede it."""
    return _stored(Stored(doc, "tensor", when_int8=of, zero_points=zero_points))


def beside(doc: str) -> Any:
    """A buffer that belongs to another field: the zero points of :func:`int8_scale`."""
    return _stored(Stored(doc, "beside"))


def _stored(spec: Stored) -> Any:
    return dataclasses.field(default=None, metadata={"tnn": spec})


NARROWED: dict[np.dtype, np.dtype] = {
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(np.float64): np.dtype(np.float32),
    np.dtype(np.int64): np.dtype(np.int32),
    np.dtype(np.bool_): np.dtype(np.int8),
    np.dtype(np.uint8): np.dtype(np.int32),
    np.dtype(np.int16): np.dtype(np.int32),
    np.dtype(np.uint16): np.dtype(np.int32),
}
"""What TNN computes in where ONNX has a type of its own: float32 and int32 alone, and int8 for the truth."""


def narrowed(array: np.ndarray) -> np.ndarray:
    """An array in the type that TNN computes it in. Whole numbers beyond 32 bits become the nearest: they are marks."""
    wanted = NARROWED.get(array.dtype, array.dtype)
    if array.dtype == np.int64:
        limits = np.iinfo(np.int32)
        array = np.clip(array, limits.min, limits.max)
    return array.astype(wanted, copy=False)


def kept(array: np.ndarray) -> Tensor:
    """A weight that TNN stores in the type it computes in."""
    return Tensor.of(np.ascontiguousarray(narrowed(array)).reshape(array.shape))
