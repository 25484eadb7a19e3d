"""A recorded case beside a model: inputs and the outputs that the network must give, tried when it is loaded.

``check.npz`` in a version folder holds arrays ``in.NAME`` and ``out.NAME``, as ``compare --against`` reads them. Inputs
are what the served network takes: uint8 pixels [N, H, W, C] where the configuration says ``TYPE_UINT8`` or
``TYPE_STRING``. An output may be any blob of the network.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tnn_serving.deviation import deviation
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import FormatError, located
from tnn_serving.formats.reading import FileKind, check_fits, opened
from tnn_serving.model import Model

RECORDED = "check.npz"
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile and numpy raise for files that are not what they claim."""

CASE_MAX_BYTES = 1 << 30
"""Of the file, and of all arrays unpacked: a recording is a few inputs and outputs."""

RECORDING = FileKind("a recording", most_bytes=CASE_MAX_BYTES, advice="record fewer outputs, or one row")

INDEX_MAX_BYTES = 1 << 20
"""Of the list of arrays in a file: about 10,000 of them."""


class _Listed(io.BufferedReader):
    """An archive whose list of files, which zipfile reads at once, is refused where it is larger than any recording's.

    Attributes:
        most_bytes: that can be read at once.
    """

    most_bytes = INDEX_MAX_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file. Raises FormatError for more than :attr:`most_bytes`."""
        if size is not None and size > self.most_bytes:
            raise FormatError(
                "too many arrays for a recording", expected=f"a list of {self.most_bytes} bytes", found=size
            )
        return super().read(size)


RecordedArrays = dict[str, np.ndarray]


def read_recording(path: Path, limits: Limits = UNLIMITED) -> tuple[RecordedArrays, RecordedArrays]:
    """Inputs and outputs of a recording by blob name. Raises as :func:`read_arrays`, or FormatError without outputs."""
    arrays = read_arrays(path, limits)
    inputs, outputs = (
        {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        for start in ("in.", "out.")
    )
    if not outputs:
        with located(str(path)):
            raise FormatError(
                "recording has no outputs", expected="arrays in.NAME and out.NAME", found=", ".join(arrays) or "nothing"
            )
    return inputs, outputs


def read_arrays(path: Path, limits: Limits = UNLIMITED) -> RecordedArrays:
    """The arrays of an .npz file by name. Raises as :func:`parse_arrays`."""
    with located(str(path)), opened(path, RECORDING, limits) as (file, _):
        return parse_arrays(file, limits)


def read_inputs(path: Path) -> RecordedArrays | None:
    """The inputs in an .npz file, named with or without ``in.``; ``None`` if it has none. Raises as
    :func:`parse_arrays`."""
    arrays = read_arrays(path)
    return {name.removeprefix("in."): one for name, one in arrays.items() if not name.startswith("out.")} or None


def parse_arrays(file: io.BufferedIOBase, limits: Limits = UNLIMITED) -> RecordedArrays:
    """The arrays of an .npz file by name.

    Sizes are checked before an array is made: a small file may announce, or unpack to, a huge one.

    Args:
        limits: of memory, for all arrays together.

    Raises:
        FormatError: not an npz file, arrays of anything but numbers, or too large for a recording.
        LimitError: larger than the memory allowed.
    """
    try:
        with _Listed(file) as listed, zipfile.ZipFile(listed) as archive:
            listed.most_bytes = CASE_MAX_BYTES
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            RECORDING.check(total)
            check_fits("the arrays are", total, limits)
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except BROKEN as error:
        raise FormatError("cannot read recording", found=f"{type(error).__name__}: {error}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with located(f"array `{member.filename}`"), archive.open(member) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise FormatError("unknown version of the npy format", expected="1.0 or 2.0", found=version)
        shape, fortran, dtype = read(file)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise FormatError("array does not hold numbers", found=dtype)
        count = math.prod(shape)
        if count * dtype.itemsize != member.file_size - file.tell():
            raise FormatError(
                "array is cut off", expected=f"{count * dtype.itemsize} bytes", found=member.file_size - file.tell()
            )
        data = file.read()
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def check_recorded(model: Model, path: Path, tolerance: float) -> None:
    """Runs a recorded case, if there is one.

    Args:
        model: the loaded network.
        path: of the recording; nothing is done if there is no such file.
        tolerance: largest difference, as a share of the output's largest value or of 1, whichever is larger.

    Raises:
        FormatError: the network gives something else; names the output, the worst index and both values.
        RequestError: the recorded inputs are not the network's.
    """
    if not path.exists():
        return
    inputs, outputs = read_recording(path, model.network.limits)
    with located(path.name):
        answer = model.run(inputs, outputs=list(outputs))
        for name, reference in outputs.items():
            with located(f"output `{name}`"):
                _compare(answer[name], reference, tolerance)


def _compare(found: np.ndarray, reference: np.ndarray, tolerance: float) -> None:
    if found.shape != reference.shape:
        raise FormatError("shape differs from the recording", expected=list(reference.shape), found=list(found.shape))
    worst = deviation(found, reference)
    if not worst.within(tolerance):
        raise FormatError(
            f"the network does not give what was recorded, worst at {list(worst.worst)}",
            expected=f"{worst.reference:.9g} within {tolerance * max(1.0, worst.largest):.3g}",
            found=f"{worst.value:.9g}",
            hint="the files may be damaged or of another network; the parameter `check_tolerance` allows more",
        )
