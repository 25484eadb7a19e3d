"""Which files make a model, and reading and writing them as a pair."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ProtoError, WeightsError, located
from tnn_serving.formats.candidates import candidates, named, none_found, several_found, versions
from tnn_serving.formats.content import TNNMODEL, TNNPROTO, FileSource, identified
from tnn_serving.formats.reading import FileKind, opened, read_file
from tnn_serving.formats.tnn.model import needs_entry, read_weights, write_weights
from tnn_serving.formats.tnn.proto import PROTO_MAX_BYTES, read_proto, write_proto
from tnn_serving.graph import Graph

PROTO_NAME = "proto.tnnproto"
MODEL_NAME = "model.tnnmodel"

PROTO_SUFFIX = ".tnnproto"
MODEL_SUFFIX = ".tnnmodel"

PROTO_FILE = FileKind("a proto", ProtoError, PROTO_MAX_BYTES, "the weights are in the .tnnmodel")
WEIGHTS_FILE = FileKind("a .tnnmodel", WeightsError)


def tnn_files(folder: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """The proto and model file of a folder; no model file where there is a proto alone.

    They are ``proto.tnnproto`` and ``model.tnnmodel``, or the folder's only files with these suffixes, or those of its
    highest numbered version folder. Suffixes count in upper and lower case; hidden files are ignored.

    Raises:
        FormatError: the folder has no proto, or several files of a kind and none with the usual name.
    """
    path = Path(folder)
    protos, models = candidates(path, PROTO_SUFFIX), candidates(path, MODEL_SUFFIX)
    usual = named(protos, PROTO_NAME), named(models, MODEL_NAME)
    if usual[0] and usual[1]:
        return usual[0], usual[1]
    if len(protos) == 1 and len(models) <= 1:
        return protos[0], models[0] if models else None
    if len(protos) > 1 or len(models) > 1:
        raise several_found(path, (protos, models), (PROTO_NAME, MODEL_NAME))
    if not models and path.is_dir() and (found := versions(path)):
        return tnn_files(found[-1])
    raise none_found(path, (PROTO_NAME, MODEL_NAME))


def read_model(
    proto: FileSource, model: FileSource | None = None, *, mapped: bool = True, limits: Limits = UNLIMITED
) -> Graph:
    """Reads a model.

    Args:
        proto: path or bytes of the .tnnproto; or a folder that holds the pair.
        model: path or bytes of the .tnnmodel. Left out with a path of a proto: the .tnnmodel of the same name beside
            it (model.tnnmodel beside proto.tnnproto), if there is one; suffixes may be in upper case. A graph without
            weights can be inspected, and filled with random ones.
        mapped: leave weights in the memory-mapped file until they are converted. A file that is cut short while it
            is mapped ends the process that looks at it (SIGBUS); without, weights are read into memory of their own.
        limits: of memory, for the .tnnmodel.

    Raises:
        ProtoError: the text is broken.
        WeightsError: the binary is broken or does not belong to the proto.
        LimitError: the binary is larger than the memory that it may use.
        FormatError: a folder without a model, or with several; a folder with a proto alone, whose layers need weights.
    """
    folder = Path(proto) if not isinstance(proto, bytes) and Path(proto).is_dir() else None
    if folder is not None:
        proto, found = tnn_files(folder)
        model = found if model is None else model
    elif model is None and not isinstance(proto, bytes):
        model = model_beside(Path(proto))
    with located(_label(proto, "proto")):
        text = _read_text(proto)
        with identified(proto, TNNPROTO):
            graph = read_proto(text)
    graph.source = _label(proto, "model")
    if model is not None:
        with located(_label(model, "model")), identified(model, TNNMODEL):
            read_weights(graph, (_map if mapped else _read)(model, limits))
    elif folder is not None and (needy := next(filter(needs_entry, graph.layers), None)):
        reason = f"{needy.place()} needs weights, and there is no .tnnmodel"
        raise none_found(folder, (PROTO_NAME, MODEL_NAME), reason=reason)
    return graph


def write_model(
    graph: Graph,
    proto_path: str | os.PathLike[str] | None = None,
    model_path: str | os.PathLike[str] | None = None,
    *,
    canonical: bool = False,
) -> tuple[bytes, bytes]:
    """The bytes of both files; what was read and not changed comes out as it was.

    Args:
        graph: the network.
        proto_path, model_path: where to write them as well; an existing file is replaced in one step.
        canonical: write as TNN's packer would, version 2 throughout, keeping nothing of the files that were read.

    Raises:
        FormatError: the graph cannot be said in these formats: a name with a separator in it, int8 weights without
            their scale, layers of one name with different weights.
    """
    with located(graph.source):
        pair = write_proto(graph, canonical=canonical), write_weights(graph, canonical=canonical)
    for path, data in zip((proto_path, model_path), pair, strict=True):
        if path is not None:
            _replace(Path(path), data)
    return pair


def model_beside(proto: Path) -> Path | None:
    """The .tnnmodel that belongs to a .tnnproto by its name; ``None`` if there is none."""
    same = proto.with_suffix(MODEL_SUFFIX)
    if same.is_file():
        return same
    usual = [MODEL_NAME] if proto.name.lower() == PROTO_NAME else []
    return named(candidates(proto.parent, MODEL_SUFFIX), same.name, *usual)


def _label(source: FileSource, of_bytes: str) -> str:
    return of_bytes if isinstance(source, bytes) else os.fspath(source)


def _read_text(source: FileSource) -> bytes:
    return source if isinstance(source, bytes) else read_file(source, PROTO_FILE)


def _map(source: FileSource, limits: Limits) -> memoryview:
    if isinstance(source, bytes):
        return memoryview(source)
    with opened(source, WEIGHTS_FILE, limits) as (file, size):
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def _read(source: FileSource, limits: Limits) -> memoryview:
    return memoryview(source if isinstance(source, bytes) else read_file(source, WEIGHTS_FILE, limits))


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
