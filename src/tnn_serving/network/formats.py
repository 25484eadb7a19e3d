"""The formats that networks come in, one line each, and the one way from a source to a network.

In: a folder, a file, bytes or an object.  Out: a :class:`~tnn_serving.network.base.Network`.  Whatever asks which files
make a model asks here. What reads a format is imported when it is needed, so that the table itself costs nothing.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ConfigError, FormatError
from tnn_serving.formats.candidates import has_suffix, none_found, versions
from tnn_serving.formats.reading import unchanged

if TYPE_CHECKING:
    import onnx

    from tnn_serving.graph import Graph
    from tnn_serving.network.base import Network

    File: TypeAlias = str | os.PathLike[str] | bytes
    Source: TypeAlias = File | tuple[File, File] | Graph | onnx.ModelProto | Network
    """What :func:`open_network` takes."""


TRANSLATING = (
    "numpy.random",
    "onnx.reference.ops",
    "tnn_serving.formats.content",
    "tnn_serving.translate.batch",
    "tnn_serving.translate.free_dims",
    "tnn_serving.translate.row_rules",
)
"""Modules that every load imports, late."""


class ModelFormat(Protocol):
    """A kind of model files.

    Attributes:
        name: of the format, for people.
        suffixes: of its files, in lower case.
        usual: the usual name of each file that makes a model; these are taken before others of their kind.
        modules: that :meth:`open` and what follows import. A process that forks workers imports them once for all.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...
    @property
    def usual(self) -> tuple[str, ...]: ...
    @property
    def modules(self) -> tuple[str, ...]: ...

    def files(self, place: Path) -> tuple[Path, ...]:
        """The files of the model in a folder, or of which a file is the first.

        Raises FormatError: there is none, or several and nothing decides between them.
        """

    def takes(self, source: object) -> bool:
        """Whether an object in memory, neither a path nor a network, is a model of this format."""

    def open(self, source: Any, limits: Limits) -> Network:
        """The network of a folder, a file, or an object that the format takes, wholly in memory.

        Raises FormatError and its kinds: the files are broken.
        """


class Tnn:
    """A text of layers and a binary file of weights."""

    name = "TNN"
    suffixes = (".tnnproto", ".tnnmodel")
    usual = ("proto.tnnproto", "model.tnnmodel")
    modules = (
        "tnn_serving.formats.tnn",
        "tnn_serving.formats.tnn.commas",
        "tnn_serving.formats.tnn.files",
        "tnn_serving.network.tnn",
        "tnn_serving.network.tnn_layers",
        *TRANSLATING,
    )

    def files(self, place: Path) -> tuple[Path, ...]:
        """The proto, and the model file if there is one."""
        from tnn_serving.formats.tnn.files import model_beside, tnn_files

        pair = tnn_files(place) if place.is_dir() else (place, model_beside(place))
        return tuple(file for file in pair if file is not None)

    def takes(self, source: object) -> bool:
        """A graph, or a pair of files."""
        from tnn_serving.graph import Graph

        return isinstance(source, Graph | tuple)

    def open(self, source: Any, limits: Limits) -> Network:
        """A network of TNN's layers."""
        from tnn_serving.formats.tnn import read_model
        from tnn_serving.graph import Graph
        from tnn_serving.network.tnn import TnnNetwork

        if isinstance(source, Graph):
            return TnnNetwork(source, limits)
        proto, model = source if isinstance(source, tuple) else (source, None)
        return TnnNetwork(read_model(proto, model, mapped=False, limits=limits), limits)


class Onnx:
    """A file of operators and weights, which may keep tensors in files beside it."""

    name = "ONNX"
    suffixes = (".onnx",)
    usual = ("model.onnx",)
    modules = (
        "tnn_serving.formats.onnx",
        "tnn_serving.formats.onnx.check",
        "tnn_serving.formats.onnx.conform",
        "tnn_serving.network.onnx",
        "tnn_serving.network.onnx_batch",
        "tnn_serving.network.onnx_layers",
        "tnn_serving.network.onnx_memory",
        "tnn_serving.network.onnx_pixels",
        *TRANSLATING,
    )

    def files(self, place: Path) -> tuple[Path, ...]:
        """The model, and the files that hold tensors of it."""
        from tnn_serving.formats.onnx import data_files, onnx_file

        file = onnx_file(place) if place.is_dir() else place
        return (file, *data_files(file))

    def takes(self, source: object) -> bool:
        """The bytes of a file, or a protobuf message."""
        import onnx

        return isinstance(source, bytes | onnx.ModelProto)

    def open(self, source: Any, limits: Limits) -> Network:
        """A network of ONNX's operators."""
        from tnn_serving.formats.onnx import onnx_file, read_onnx
        from tnn_serving.network.onnx import OnnxNetwork

        if isinstance(source, Path):
            file = onnx_file(source) if source.is_dir() else source
            return OnnxNetwork(read_onnx(file, limits), str(file), limits)
        model = read_onnx(source, limits)
        return OnnxNetwork(model, model.graph.name, limits)


FORMATS: list[ModelFormat] = [Tnn(), Onnx()]
"""All formats. A further one is a package of its own that reads the files, and a line here."""


def open_network(source: Source, limits: Limits = UNLIMITED) -> Network:
    """The network that a source means, wholly in memory: its files may be replaced afterwards.

    Args:
        source: a model folder (its highest version counts), a version folder, a .tnnproto with its .tnnmodel beside it,
            an .onnx, (proto, model) as paths or bytes, the bytes of an .onnx, an ``onnx.ModelProto``, a graph, or a
            network, which is returned as it is.
        limits: what it may ask for.

    Raises:
        FormatError: there is no model, or a broken one, or its folder is written to meanwhile.
        LimitError: its files are larger than the memory that it may use.
        ConfigError: the source is something else.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), limits)
    for one in FORMATS:
        if one.takes(source):
            return one.open(source, limits)
    if _is_network(source):
        return source
    raise ConfigError("no source of a model", expected="a path, bytes, a graph or a network", found=type(source))


def format_at(place: Path) -> tuple[ModelFormat, Path]:
    """The format of a file or of the files in a folder, and the folder or file itself: of a model folder, its highest
    version. Raises FormatError."""
    if not place.is_dir():
        return _format_of(place), place
    folder = _with_files(place)
    return _format_in(folder), folder


def model_files(place: Path) -> tuple[Path, ...]:
    """The files that make the model in a folder, or of which a file is the first. Raises FormatError."""
    one, found = format_at(place)
    return one.files(found)


def has_model_files(folder: Path) -> bool:
    """Whether a folder itself holds a file of any format. Raises OSError."""
    return any(has_suffix(file, *_suffixes()) for file in folder.iterdir())


def _is_network(source: object) -> TypeGuard[Network]:
    """A protocol with properties cannot be asked for with isinstance: that computes them."""
    return callable(getattr(source, "check_shapes", None))


def _open_path(place: Path, limits: Limits) -> Network:
    one, found = format_at(place)
    with unchanged(found) if found.is_dir() else nullcontext():
        return one.open(found, limits)


def _with_files(folder: Path) -> Path:
    """The folder itself, if it has model files, or else its highest version."""
    try:
        return folder if has_model_files(folder) else (versions(folder) or [folder])[-1]
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror}") from error


def _format_in(folder: Path) -> ModelFormat:
    present = {one.name: [f for f in sorted(folder.iterdir()) if has_suffix(f, *one.suffixes)] for one in FORMATS}
    found = [one for one in FORMATS if present[one.name]]
    if not found:
        raise none_found(folder, *(one.usual for one in FORMATS))
    if len(found) > 1:
        raise FormatError(
            f"two models in {folder}",
            expected=" or ".join(" with ".join(f"a {suffix}" for suffix in one.suffixes) for one in FORMATS),
            found=", ".join(file.name for files in present.values() for file in files),
        )
    return found[0]


def _format_of(file: Path) -> ModelFormat:
    for one in FORMATS:
        if has_suffix(file, *one.suffixes):
            return one
    if not file.exists():
        raise FormatError(f"{file}: cannot be read: no such file or folder")
    raise FormatError(f"{file} is no model file by its name", expected=" or ".join(_suffixes()), found=file.name)


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for one in FORMATS for suffix in one.suffixes)
