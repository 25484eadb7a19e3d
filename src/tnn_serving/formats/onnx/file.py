"""Reading and writing ONNX models, and which file of a folder is one."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ConfigError, FormatError, TnnError, located
from tnn_serving.formats.candidates import candidates, chosen, none_found, several_found
from tnn_serving.formats.content import ONNX, identified
from tnn_serving.formats.onnx.check import PROTOBUF_MAX_BYTES, check
from tnn_serving.formats.onnx.conform import conform
from tnn_serving.formats.onnx.external import load_data, places
from tnn_serving.formats.onnx.types import tensors_within
from tnn_serving.formats.reading import FileKind, read_file

SUFFIX = ".onnx"
FILE_NAME = "model.onnx"

ONNX_FILE = FileKind(
    "an ONNX model", most_bytes=PROTOBUF_MAX_BYTES, advice="onnx.save with save_as_external_data puts weights in a file"
)

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
        model = _from_bytes(read_file(file, ONNX_FILE))
    except TnnError:
        return []
    below = [name for name in places(model) if not Path(name).is_absolute() and ".." not in Path(name).parts]
    return [file.parent / name for name in below]


def read_onnx(source: OnnxSource, limits: Limits = UNLIMITED) -> onnx.ModelProto:
    """Reads a model, with the data that files beside it hold.

    Args:
        source: a path, the bytes of a file, or a model in memory, which stays as it is.
        limits: of memory, for its files and for a sparse initializer.

    Raises:
        FormatError: it cannot be read, or is no valid ONNX model.
        LimitError: it is too large.
    """
    if isinstance(source, str | os.PathLike):
        # A link is followed: the data is beside the file itself.
        place = Path(os.path.realpath(source))
        with located(os.fspath(source)):
            content = read_file(place, ONNX_FILE, limits)
            with identified(source, ONNX):
                model, read = _from_bytes(content), len(content)
                del content
                load_data(model, place.parent, read, limits)
                return _checked(model, limits)
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


def _from_bytes(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise FormatError("no valid ONNX model", found=_reason(error)) from error
    return model


def _checked(model: onnx.ModelProto, limits: Limits) -> onnx.ModelProto:
    for tensor in tensors_within(model):
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
