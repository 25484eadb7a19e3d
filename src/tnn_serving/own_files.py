"""What of a model folder a server is shown: the files of the model, and nothing that would be run.

Triton looks for a backend's library in a model's version folders and in its folder before it looks in its own, and
``config.pbtxt`` can name another backend, a library, or an agent of the repository. So who may write into a repository
could run code in the server. Here is what a folder must not contain, for all who read one.

Sources: Triton's backend documentation, "Backend Shared Library"; ``model_config.proto`` (``runtime``,
``model_repository_agents``, ``model_operations``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from tnn_serving.config.model_config import BACKEND, CONFIG_FILE
from tnn_serving.config.prototext import TextValue, locate
from tnn_serving.config.text import config_text
from tnn_serving.errors import ConfigError, FormatError, located
from tnn_serving.formats.reading import FileKind, opened
from tnn_serving.repository import is_ours

ENSEMBLE = "ensemble"
"""The platform of models that consist of other models; they run no code of their own."""

LIBRARY = re.compile(r"\.so(\.\d+)*$")
"""The end of a shared library's name."""

UNKNOWN = "unknown"
"""In place of a backend that Triton would have to guess."""

FORBIDDEN_FIELDS = {
    "runtime": "names a library or program to run the model with",
    "model_repository_agents": "names libraries that change the folder before it is read",
    "model_operations": "names libraries of operators",
}
"""Fields of ``config.pbtxt`` by which a model brings code, and what each does."""

MAX_DEPTH = 8
FOLDER_ENTRIES = 10_000
"""Most folders inside each other, and most files and folders, of a model folder: links may lead up."""

LABELS_MAX_BYTES = 16 << 20
"""Far above any list of classes: ImageNet's 21,841 take less than 1 MB. Triton takes 4 times as much."""

LABEL_FILE = FileKind("a label file", ConfigError, LABELS_MAX_BYTES, "it has a line for each class")


TAKEN_OVER: dict[tuple[str, ...], str] = {
    (
        "onnxruntime",
        "onnxruntime_onnx",
    ): f'its model.onnx is served here: take that line out of {CONFIG_FILE}, or write backend: "{BACKEND}"',
    ("openvino",): "export the network as ONNX, put it into the version folder as model.onnx in place of model.xml and "
    f"model.bin, and take that line out of {CONFIG_FILE}",
    ("tensorflow", "tensorflow_savedmodel", "tensorflow_graphdef"): "export the network as ONNX (python -m "
    f"tf2onnx.convert), put it into the version folder as model.onnx, and take that line out of {CONFIG_FILE}",
    (
        "pytorch",
        "pytorch_libtorch",
    ): "export the network as ONNX (torch.onnx.export), put it into the version folder as "
    f"model.onnx, and take that line out of {CONFIG_FILE}",
}
"""How a model of another backend is taken over, by the backend's or platform's name."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a configuration says about who serves the model.

    Attributes:
        backend, platform: empty if left out.
        fields: the names of all fields at the top level.
        labels: the label files that outputs name.
    """

    backend: str
    platform: str
    fields: frozenset[str]
    labels: tuple[str, ...]

    @property
    def is_ensemble(self) -> bool:
        """Whether Triton serves the model from others."""
        named = self.platform == ENSEMBLE or (not self.platform and "ensemble_scheduling" in self.fields)
        return named and not self.backend


@lru_cache(maxsize=4096)
def read_declaration(text: bytes) -> Declared:
    """What the text of a ``config.pbtxt`` declares.

    It is read here, and not by protobuf, which takes more memory than all of the process that starts a server.

    Raises:
        ConfigError: it cannot be read, or a decisive value is not written plainly.
    """
    content = text.decode("latin-1")
    try:
        fields = locate(content)
    except RecursionError:
        raise ConfigError("config.pbtxt cannot be read", found="messages nested too deeply") from None
    labels = [label for output in fields.all("output") for label in output.all("label_filename")]
    return Declared(
        backend=_plain(content, "backend", fields.all("backend")),
        platform=_plain(content, "platform", fields.all("platform")),
        fields=frozenset(field.name for field in fields.fields or ()),
        labels=tuple(_plain(content, "label_filename", [label]) for label in labels),
    )


def _plain(text: str, name: str, values: list[TextValue]) -> str:
    """The string of a field that occurs at most once, written as one string without escapes."""
    if not values:
        return ""
    pieces = values[0].pieces
    written = text[pieces[0][0] : pieces[0][1]] if pieces else ""
    if len(values) > 1 or len(pieces) != 1 or written[:1] not in ("'", '"') or "\\" in written:
        raise ConfigError(f"{name} must be one string without escapes", found=written or None)
    return written[1:-1].encode("latin-1").decode("utf-8", "surrogateescape")


def declaration_of(folder: Path) -> Declared:
    """What the configuration of a model folder declares. Raises ConfigError as :func:`read_declaration`."""
    with located(CONFIG_FILE):
        return read_declaration(config_text(folder))


def entries(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Everything in a model folder: its path inside, its place, and whether it is a folder. Links are followed.

    Raises:
        FormatError: folders are nested too deeply, or there are too many files.
        OSError: a folder cannot be read.
    """
    count = 0
    waiting = [(folder, "", 0)]
    while waiting:
        place, inside, depth = waiting.pop()
        if depth == MAX_DEPTH:
            raise FormatError(f"folders are nested too deeply at {place}", hint="is there a link to a folder above?")
        for entry in sorted(os.scandir(place), key=lambda one: one.name):
            count += 1
            if count > FOLDER_ENTRIES:
                raise FormatError(f"too many files in {folder}", expected=f"at most {FOLDER_ENTRIES}")
            name, is_folder = f"{inside}{entry.name}", os.path.isdir(entry.path)  # not entry's, which fails for loops
            yield name, Path(entry.path), is_folder
            if is_folder:
                waiting.append((Path(entry.path), f"{name}/", depth + 1))


def folder_refusals(folder: Path) -> list[ConfigError]:
    """Everything for which a model folder is refused wherever it is served: code, and label files from elsewhere.

    Raises:
        ConfigError: the configuration cannot be read.
        FormatError, OSError: as :func:`entries`.
    """
    found = [
        ConfigError(f"file `{name}` is a shared library, which Triton may load", hint="remove it from the model folder")
        for name, _, is_folder in entries(folder)
        if not is_folder and LIBRARY.search(name)
    ]
    config = declaration_of(folder)
    for name, what in FORBIDDEN_FIELDS.items():
        if name in config.fields:
            found.append(ConfigError(f"`{name}` {what}", hint=f"remove it from {CONFIG_FILE}"))
    for label in config.labels:
        try:
            if label_exists(folder, label):
                check_label(folder, label)
        except ConfigError as error:
            found.append(error)
    return found


def label_exists(folder: Path, name: str) -> bool:
    """Whether there is anything where a label file should be; a name outside of the folder counts as well."""
    return ".." in PurePosixPath(name).parts or (folder / name).exists()


def foreign_backend(folder: Path, config: Declared) -> str | None:
    """The name of what would run a model, if that is not this backend; ``None`` for models of ours and ensembles."""
    if config.backend not in ("", BACKEND):
        return config.backend
    if config.platform not in ("", BACKEND, ENSEMBLE):
        return config.platform
    return None if config.backend or config.is_ensemble or is_ours(folder) else UNKNOWN


def check_label(folder: Path, name: str) -> None:
    """Checks a label file of a model folder. Triton reads it, and answers with its lines.

    Raises:
        ConfigError: it is outside of the folder, missing, no regular file, or larger than :data:`LABELS_MAX_BYTES`.
    """
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigError("label_filename is outside of the model folder", found=name)
    with located(f"label file `{name}`"):
        with opened(folder / name, LABEL_FILE):
            pass
        if not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder)):
            raise ConfigError("it is a link out of the model folder", hint="copy the file into the folder")


def check_own_files(folder: Path, *, allowed: Collection[str] = ()) -> None:
    """Checks that a server may be shown a model folder.

    Args:
        allowed: further backends, whose models may contain code.

    Raises:
        ConfigError: it contains code, names another backend, or a label file that is not its own.
        FormatError, OSError: as :func:`entries`.
    """
    config = declaration_of(folder)
    backend = foreign_backend(folder, config)
    if backend is not None and backend not in allowed:
        raise foreign(backend)
    problems = folder_refusals(folder) if backend is None else []
    if problems:
        raise problems[0]


def foreign(backend: str) -> ConfigError:
    """The error about a model of another backend."""
    if backend == UNKNOWN:
        return ConfigError(
            "it names no backend, and has no model files of this one", hint=f"set `backend` in {CONFIG_FILE}"
        )
    taken_over = next((hint for names, hint in TAKEN_OVER.items() if backend in names), None)
    return ConfigError(
        f"it is a model of `{backend}`",
        expected=f'backend: "{BACKEND}"',
        hint=taken_over or f"remove it, or allow its code to run with --allow-backend {backend}",
    )
