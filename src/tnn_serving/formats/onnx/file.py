"""Reading and writing ONNX models, and which file of a folder is one."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ConfigError, FormatError, located
from tnn_serving.formats.candidates import candidates, chosen, none_found, several_found
from tnn_serving.formats.content import ONNX, head_of, identified, identify
from tnn_serving.formats.onnx.check import check
from tnn_serving.formats.onnx.conform import conform
from tnn_serving.formats.reading import check_regular

SUFFIX = ".onnx"
FILE_NAME = "model.onnx"

OnnxSource = str | os.PathLike[str] | bytes | onnx.ModelProto


def onnx_file(folder: Path) -> Path:
    """The ONNX model of a folder: ``model.onnx``, or its only file of that kind.

    Raises:
        FormatError: there is none, or there are several.
    """
    found = candidates(folder, SUFFIX)
    if not found:
        raise none_found(folder, (FILE_NAME,))
    one = chosen(found, FILE_NAME)
    if one is None:
        raise several_found(folder, (found,), (FILE_NAME,))
    return one


def data_files(file: Path) -> list[Path]:
    """The files beside an ONNX model, or below, that hold its tensors; none if the model itself cannot be read."""
    try:
        model = onnx.load_model(file, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return []
    places = [entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"]
    below = [name for name in dict.fromkeys(places) if not Path(name).is_absolute() and ".." not in Path(name).parts]
    return [file.parent / name for name in below]


def read_onnx(source: OnnxSource, limits: Limits = UNLIMITED) -> onnx.ModelProto:
    """Reads a model, with the data that files beside it hold.

    Args:
        source: a path, the bytes of a file, or a model in memory, which stays as it is.
        limits: of memory, for a sparse initializer.

    Raises:
        FormatError: it cannot be read, or is no valid ONNX model.
        LimitError: it is too large.
    """
    if isinstance(source, str | os.PathLike):
        with located(os.fspath(source)), identified(source, ONNX):
            return _checked(_from_file(Path(source)), limits)
    if isinstance(source, bytes):
        with identified(source, ONNX):
            return _checked(_from_bytes(source), limits)
    model = onnx.ModelProto()
    model.CopyFrom(source)
    return _checked(model, limits)


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model. Raises ConfigError if it cannot."""
    try:
        path.write_bytes(model.SerializeToString())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _from_file(path: Path) -> onnx.ModelProto:
    check_regular(path)
    try:
        # A link is followed: the data is beside the file itself.
        return onnx.load_model(os.path.realpath(path), format="protobuf")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        for file in data_files(path):
            head = head_of(file)
            content = None if head is None else identify(head)
            if content is not None:
                raise FormatError(f"external data `{file.name}` is {content.name}", hint=content.advice) from error
        raise FormatError("no valid ONNX model", found=_reason(error)) from error


def _from_bytes(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise FormatError("no valid ONNX model", found=_reason(error)) from error
    return model


def _checked(model: onnx.ModelProto, limits: Limits) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            raise FormatError(
                f"tensor `{tensor.name}` is stored in another file, which bytes do not lead to",
                hint="give the path of the .onnx, or load the data with onnx.load_external_data_for_model first",
            )
    conform(model, limits)
    check(model)
    return model


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
