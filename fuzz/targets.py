"""Fuzz targets: each accepts any bytes and may raise only the package's own errors."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tnn_serving.config.reading import read_settings
from tnn_serving.config.text import read_config
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import ConfigError, FormatError, RequestError, TnnError
from tnn_serving.formats.tnn import read_model, write_model
from tnn_serving.pictures.decode import decode
from tnn_serving.prepare.manifest import parse_manifest
from tnn_serving.prepare.recorded_case import parse_arrays
from tnn_serving.translate.graph import translate

HERE = Path(__file__).parent
MAX_PIXELS = 1 << 20
MEMORY_BYTES = 50e6
TIME_S = 5.0


def proto(data: bytes) -> None:
    """A .tnnproto: refused, or written back byte for byte."""
    try:
        graph = read_model(data)
        assert write_model(graph)[0] == data
        write_model(graph, canonical=True)
    except FormatError as error:
        str(error).encode()


def model(data: bytes) -> None:
    """A .tnnmodel for a proto with one layer of each kind: refused, or written back byte for byte."""
    try:
        graph = read_model((HERE / "everything.tnnproto").read_bytes(), data)
        assert write_model(graph)[1] == data
        write_model(graph, canonical=True)
    except FormatError as error:
        str(error).encode()


def network(data: bytes) -> None:
    """A .tnnproto without weights, translated: refused, or an ONNX model of bounded size."""
    try:
        graph = read_model(data, b"")
        translate(graph, limits=Limits(MEMORY_BYTES, time.monotonic() + TIME_S))
    except TnnError as error:
        str(error).encode()


def picture(data: bytes) -> None:
    """A picture file: refused, or R, G, B."""
    try:
        pixels = decode(data, max_pixels=MAX_PIXELS)
    except RequestError as error:
        str(error).encode()
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


def config(data: bytes) -> None:
    """A config.pbtxt: refused, or settings."""
    try:
        read_settings(read_config(data), {})
    except ConfigError as error:
        str(error).encode()


def manifest(data: bytes) -> None:
    """A SHA256SUMS: refused, or names inside the folder."""
    try:
        sums = parse_manifest(data)
    except FormatError as error:
        str(error).encode()
        return
    assert not any(name.startswith("/") or ".." in name.split("/") for name in sums)


def recording(data: bytes) -> None:
    """A check.npz: refused, or arrays of numbers."""
    try:
        arrays = parse_arrays(io.BytesIO(data))
    except FormatError as error:
        str(error).encode()
        return
    assert all(array.dtype.kind in "biuf" for array in arrays.values())


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (proto, model, network, picture, config, manifest, recording)
}


def inputs_of(name: str) -> list[Path]:
    """The stored inputs of a target: its corpus, and inputs that once broke it."""
    return sorted(path for kind in ("corpus", "crashes") for path in (HERE / kind / name).glob("*"))
