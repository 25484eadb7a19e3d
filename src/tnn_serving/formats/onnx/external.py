"""Tensors of an ONNX model that are stored in other files, beside the model or below.

Source: ONNX, ``docs/ExternalData.md``: the entries ``location``, ``offset`` and ``length`` of a tensor; without a
length, a tensor is the rest of the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from tnn_serving.emit.limits import Limits
from tnn_serving.errors import FormatError, located
from tnn_serving.formats.content import head_of, identify
from tnn_serving.formats.onnx.types import packed_bytes, tensors_within
from tnn_serving.formats.reading import check_fits, opened


def places(model: onnx.ModelProto) -> list[str]:
    """The files that tensors of a model are stored in, as the model names them."""
    external = filter(uses_external_data, tensors_within(model))
    return list(dict.fromkeys(e.value for tensor in external for e in tensor.external_data if e.key == "location"))


def load_data(model: onnx.ModelProto, folder: Path, read: int, limits: Limits) -> None:
    """Puts the data of other files into a model.

    Args:
        folder: that the files are named from.
        read: size of the model's own file.
        limits: of memory: for all files together, and for all tensors together, which may share a part of a file.

    Raises:
        FormatError: a file is missing, no regular file, outside of the folder, or does not fit its tensors.
        LimitError: the files, or the tensors, are larger than the memory for the model; nothing has been read then.
    """
    sizes = {}
    for place in places(model):
        with located(f"external data `{place}`"), opened(folder / place) as (_, size):
            sizes[place] = size
    check_fits("the model's files are", read + sum(sizes.values()), limits)
    external = [tensor for tensor in tensors_within(model) if uses_external_data(tensor)]
    check_fits("the model's tensors are", read + sum(map(packed_bytes, external)), limits)
    for tensor in external:
        _load(tensor, folder, sizes)


def _load(tensor: onnx.TensorProto, folder: Path, sizes: Mapping[str, int]) -> None:
    info = None
    try:
        info = ExternalDataInfo(tensor)
        needed = packed_bytes(tensor)
        length = int(info.length or sizes.get(info.location, 0) - (info.offset or 0))
        if length != needed:
            raise ValueError(f"tensor `{tensor.name}` needs {needed} bytes of external data, and has {length}")
        # Without a length all that follows is read, also what has been appended since.
        kept = [entry for entry in tensor.external_data if entry.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend([*kept, onnx.StringStringEntryProto(key="length", value=str(length))])
        load_external_data_for_tensor(tensor, os.fspath(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        for place in [info.location] if info else []:
            head = head_of(folder / place)
            content = None if head is None else identify(head)
            if content is not None:
                raise FormatError(f"external data `{place}` is {content.name}", hint=content.advice) from error
        raise FormatError("no valid ONNX model", found=" ".join(str(error).split())[:400]) from error
