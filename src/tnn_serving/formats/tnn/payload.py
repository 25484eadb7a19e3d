"""What an entry of the model file holds for a layer: the declared fields, read and written in order.

A :data:`~tnn_serving.graph.Payload` maps the fields that are there to their values. The same function writes what
was read, what a program has changed (:func:`stored_payload`), and what TNN's packer makes of it
(:func:`canonical_payload`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tnn_serving.errors import WeightsError, located
from tnn_serving.formats.tnn.tensor import EMPTY, ByteReader, ByteWriter
from tnn_serving.graph import Payload
from tnn_serving.layers.base import Layer
from tnn_serving.layers.weights import Stored
from tnn_serving.tensor import BlobScale, DataType, Tensor

log = logging.getLogger(__name__)


def read_payload(reader: ByteReader, fields: Sequence[Stored]) -> Payload:
    """Reads the fields of an entry. Raises WeightsError if they are cut off or not what was declared."""
    payload: Payload = {}
    for spec in fields:
        what = f"field `{spec.name}`"
        if not _follows(spec, payload):
            continue
        if spec.form == "text":
            payload[spec.name] = reader.text(what)
        elif spec.form == "flag":
            payload[spec.name] = reader.int32(what)
        elif spec.form == "byte":
            payload[spec.name] = reader.byte(what)
        elif spec.when_int8 is not None:
            points, scale = _read_scale(reader, what, zero_points=spec.zero_points is not None)
            if points is not None and spec.zero_points is not None:
                payload[spec.zero_points] = points
            payload[spec.name] = scale
        else:
            payload[spec.name] = reader.tensor(what)
    return payload


def _follows(spec: Stored, payload: Payload) -> bool:
    if spec.form == "beside":
        return False
    if spec.when is not None:
        return bool(payload[spec.when])
    return spec.when_int8 is None or _is_int8(payload.get(spec.when_int8))


def _is_int8(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype is DataType.INT8 and value.size > 0


def _read_scale(reader: ByteReader, what: str, *, zero_points: bool) -> tuple[Tensor | None, Tensor]:
    """Float scales, and the int8 zero points that may stand before them.

    Raises WeightsError for other types, for empty scales, and for another number of zero points.
    """
    start = reader.at
    points, scale = None, reader.tensor(what)
    if zero_points and _is_int8(scale):
        points, scale = scale, reader.tensor(what)
    if scale.dtype is not DataType.FLOAT or not scale.size:
        raise WeightsError(
            f"bad quantisation block at byte {start}, in {what}",
            expected="float scales",
            found=f"{scale.size} values of {scale.dtype.name.lower()}",
        )
    if points is not None and points.size != scale.size:
        raise WeightsError(
            f"bad quantisation block at byte {start}, in {what}",
            expected=f"{scale.size} zero points, one for each scale",
            found=points.size,
        )
    return points, scale


def read_blob_scale(reader: ByteReader) -> BlobScale:
    """Reads the scale of an int8 blob, in the form with zero points or in the old one."""
    points, scale = _read_scale(reader, "field `scale`", zero_points=True)
    return BlobScale(scale, points, reader.tensor("field `bias`"))


def fill(layer: Layer, payload: Payload) -> None:
    """Gives a layer what its entry holds; fields that are not there become ``None``."""
    for spec in layer.payload:
        setattr(layer, spec.name, payload.get(spec.name))
    layer.stored = True


def stored_payload(layer: Layer) -> Payload:
    """What a layer holds, with flags that fit, so that reading it gives the same.

    Raises WeightsError for int8 weights without their scale.
    """
    payload: Payload = {spec.name: value for spec in layer.payload if (value := getattr(layer, spec.name)) is not None}
    for spec in layer.payload:
        if spec.form == "text":
            payload.setdefault(spec.name, "" if spec.rewritten == "empty" else layer.name)
        elif spec.form in ("flag", "byte"):
            follows = any(other.when == spec.name and other.name in payload for other in layer.payload)
            if spec.name not in payload or bool(payload[spec.name]) is not follows:
                payload[spec.name] = int(follows)
        elif spec.form == "tensor" and spec.when is None and spec.when_int8 is None:
            payload.setdefault(spec.name, EMPTY)
        elif spec.when_int8 is not None and not _is_int8(payload.get(spec.when_int8)):
            _drop_scale(payload, spec)
        elif spec.when_int8 is not None and spec.name not in payload:
            with located(layer.place()):
                raise WeightsError(f"int8 `{spec.when_int8}` needs its scale in `{spec.name}`")
    return payload


def _drop_scale(payload: Payload, spec: Stored) -> None:
    payload.pop(spec.name, None)
    payload.pop(spec.zero_points or "", None)


def canonical_payload(layer: Layer) -> Payload:
    """What TNN's packer writes for a layer.

    Strings, flags and the form of scales come from the proto's line rather than from what was read.
    """
    payload = stored_payload(layer)
    for spec in layer.payload:
        if spec.form == "text" and spec.rewritten != "kept":
            payload[spec.name] = layer.name if spec.rewritten == "name" else ""
        elif spec.form in ("flag", "byte"):
            _set_flag(layer, spec, payload)
        elif spec.zeros_like is not None:
            _fill_zeros(payload, spec)
        elif spec.when_int8 is not None:
            _set_scale(layer, spec, payload)
    return payload


def _set_flag(layer: Layer, spec: Stored, payload: Payload) -> None:
    """The flag of the proto's line, or whether there is a buffer with dims; the buffer follows it."""
    for other in layer.payload:
        if other.when != spec.name:
            continue
        if spec.parameter is not None:
            flag = int(getattr(layer, spec.parameter))
        else:
            tensor = payload.get(other.name)
            flag = int(isinstance(tensor, Tensor) and (bool(tensor.dims) or not other.needs_dims))
        payload[spec.name] = flag
        if flag:
            payload.setdefault(other.name, EMPTY)
        else:
            payload.pop(other.name, None)


def _fill_zeros(payload: Payload, spec: Stored) -> None:
    value, like = payload[spec.name], payload[spec.zeros_like or ""]
    if isinstance(value, Tensor) and isinstance(like, Tensor) and not len(value.data):
        payload[spec.name] = Tensor(DataType.FLOAT, (), memoryview(bytes(len(like.data))))


def _set_scale(layer: Layer, spec: Stored, payload: Payload) -> None:
    """Zero points and scale of a layer marked int8, the scale of one marked dynamic-range; else nothing."""
    scale = payload.get(spec.name)
    if not isinstance(scale, Tensor):
        return
    if (spec.when_int8 or "") not in payload:
        _drop_scale(payload, spec)
    elif spec.zero_points and layer.quantized:
        payload.setdefault(spec.zero_points, no_zero_points(scale))
    elif layer.dynamic_range:
        payload.pop(spec.zero_points or "", None)
    else:
        log.warning(
            "%s is not marked int8: its scale is not written, as by TNN, which cannot read such a file", layer.place()
        )
        _drop_scale(payload, spec)


def no_zero_points(scale: Tensor) -> Tensor:
    """Zeros, one for each scale: what the packer makes of a form without them."""
    return Tensor(DataType.INT8, (), memoryview(bytes(scale.size)))


def write_payload(
    writer: ByteWriter, fields: Sequence[Stored], payload: Payload, *, version: int | None, canonical: bool = False
) -> None:
    """Writes the fields that are there, in declared order; buffers in their own version or in another."""
    for spec in fields:
        value = payload.get(spec.name)
        if isinstance(value, str):
            writer.text(value)
        elif isinstance(value, Tensor):
            write_tensor(writer, value, version=version, canonical=canonical)
        elif spec.form == "byte" and value is not None:
            writer.byte(value)
        elif value is not None:
            writer.int32(value)


def write_blob_scale(writer: ByteWriter, scale: BlobScale, *, version: int | None, canonical: bool = False) -> None:
    """Writes the scale of an int8 blob; the packer's form always has zero points."""
    points = scale.zero_point
    if points is None and canonical:
        points = no_zero_points(scale.scale)
    bias = scale.bias
    if bias is None:
        bias = Tensor(DataType.INT32, (), memoryview(bytes(4 * scale.scale.size)))
    for tensor in (points, scale.scale, bias):
        if tensor is not None:
            write_tensor(writer, tensor, version=version, canonical=canonical)


def write_tensor(writer: ByteWriter, tensor: Tensor, *, version: int | None, canonical: bool = False) -> None:
    """Writes a buffer; TNN forgets the type of an empty one, so its packer writes 0."""
    writer.tensor(EMPTY if canonical and not len(tensor.data) else tensor, version=version)
