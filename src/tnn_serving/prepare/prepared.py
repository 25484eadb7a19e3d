"""What a worker hands over: everything that a server needs to open a model, in one value and a few files.

A prepared model is good for the files, settings, processor and versions that it was made for, and for no others: its
key names them all.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tnn_serving.analysis import Analysis
from tnn_serving.config.model_config import Batching, ModelConfig, TensorConfig
from tnn_serving.config.reading import CommandLine
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.base import Arrays, Shapes
from tnn_serving.engines.choose import Choice
from tnn_serving.engines.cpu import available_cores, cpu_name, this_cpu
from tnn_serving.errors import FormatError
from tnn_serving.prepare.manifest import sha256_of
from tnn_serving.version import VERSION

PREPARED_VERSION = 1
"""Of what is written; another version is prepared again."""

VALUE, FILES, EXECUTABLE = "prepared.json", "files", "executable"
"""Names of what a worker writes, and of the folder that it reads a model's files in."""

PLACE = "<files>"
"""In texts of a prepared model: the folder of its files, which may be another one the next time."""

NOT_DECISIVE = frozenset({"cache_dir", "load_timeout_s", "prepared_only", "require_manifest"})
"""Parameters that decide whether a model is loaded, but not what is prepared."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A small array as data."""

    dtype: str
    shape: tuple[int, ...]
    content: str

    @classmethod
    def of(cls, array: np.ndarray) -> StoredArray:
        """The array, C-contiguous."""
        return cls(array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode())

    def array(self) -> np.ndarray:
        """The array again. Raises ValueError if it cannot be one."""
        return np.frombuffer(base64.b64decode(self.content), np.dtype(self.dtype)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared model.

    Attributes:
        analysis: of the network, as JSON.
        max_batch_size, input, output, batching: what the configuration says when it is completed; ``batching`` is
            ``dynamic_batching``, as JSON.
        choice: the engine, and why.
        int8: the form of int8 layers, or "none".
        options: what the network was compiled with.
        served: the outputs that it was compiled for.
        sizes: input shapes that were measured at.
        sized: inputs that decide a size, an index or a count, with values that the network is likely to take.
        joined_rows, seconds: as :class:`~tnn_serving.prepare.loaded.Loaded`.
        batched: batch sizes that are written down in the network were made free.
        specialises: single shapes are worth compiling for.
        shapes: those that are compiled for. Executable 0 is the general one, the others follow in this order.
        needs: the memory in bytes that the network needs at each of them; ``None`` where values decide as well.
        warnings: what was warned of while it was prepared.
        config_warnings: what was warned of in the configuration. The process that opens the model warns of it again.
        models_key: what models are equal in that can share their executables.
    """

    analysis: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    batching: dict[str, Any] | None
    choice: Choice
    int8: str
    options: Options
    served: tuple[str, ...]
    sizes: dict[str, tuple[int, ...]]
    sized: dict[str, StoredArray]
    joined_rows: int
    seconds: float
    batched: bool
    specialises: bool
    shapes: list[dict[str, tuple[int, ...]]]
    needs: list[int | None]
    warnings: list[str]
    config_warnings: list[str]
    models_key: str

    def to_json(self) -> bytes:
        """The value as JSON."""
        return msgspec.json.encode({"version": PREPARED_VERSION, "prepared": self}, enc_hook=_encoded)

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        """The value that :meth:`to_json` wrote. Raises FormatError for anything else."""
        try:
            written = msgspec.json.decode(text, type=_Written, dec_hook=_decoded)
        except (msgspec.DecodeError, ValueError) as error:
            raise FormatError("a prepared model cannot be read", found=str(error)) from error
        if written.version != PREPARED_VERSION:
            raise FormatError("a prepared model has another version", expected=PREPARED_VERSION, found=written.version)
        return written.prepared

    def analysed(self, files: Path) -> Analysis:
        """The analysis of the network whose files are in this folder. Raises FormatError."""
        analysis = Analysis.from_json(self.analysis.encode())
        return replace(analysis, source=analysis.source.replace(PLACE, os.fspath(files)))

    def placed(self, files: Path) -> Prepared:
        """The same with warnings that name this folder."""
        warnings, config_warnings = (
            [text.replace(PLACE, os.fspath(files)) for text in texts] for texts in (self.warnings, self.config_warnings)
        )
        return replace(self, warnings=warnings, config_warnings=config_warnings)

    def completed(self, config: ModelConfig) -> ModelConfig:
        """A configuration as the model is served with it."""
        batching = config.dynamic_batching
        if self.batching is not None and batching is None:
            batching = Batching.read(self.batching)
        return replace(
            config,
            max_batch_size=self.max_batch_size,
            input=_completed(config.input, self.input),
            output=_completed(config.output, self.output),
            dynamic_batching=batching,
        )

    def values(self) -> Arrays:
        """:attr:`sized` as arrays."""
        return {name: stored.array() for name, stored in self.sized.items()}


def _completed(own: Sequence[TensorConfig], stored: Sequence[Mapping[str, Any]]) -> tuple[TensorConfig, ...]:
    """The tensors of a configuration with what was filled in, and those that were added."""
    known = {tensor.name: tensor for tensor in own}
    made = []
    for tensor in map(TensorConfig.read, stored):
        mine = known.get(tensor.name)
        if mine is not None:
            tensor = replace(mine, data_type=tensor.data_type, dims=tensor.dims, reshape=tensor.reshape)
        made.append(tensor)
    return tuple(made)


@dataclass(frozen=True, slots=True)
class _Written:
    version: int
    prepared: Prepared


def _encoded(value: object) -> object:
    if isinstance(value, Path):
        return os.fspath(value)
    raise NotImplementedError(f"no JSON for {type(value)}")


def _decoded(kind: type, value: object) -> Any:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(f"no {kind} in JSON")


def key_of(
    files: Path, config: ModelConfig, options: CommandLine, *, completes: bool, ours: bool, limits: Limits = UNLIMITED
) -> str:
    """The key of a model that is prepared for these files, settings, this processor and these versions.

    Args:
        files: the folder with the files of the version, which are compared by their contents.
        config: as it is read, not completed.
        options: parameters of the server's command line.
        completes, ours: as :func:`~tnn_serving.prepare.loading.load_files`.
        limits: of the model's memory.

    Raises FormatError for files that cannot be read.
    """
    facts = {
        "format": PREPARED_VERSION,
        "files": digests_of(files, limits),
        "config": _decisive(config),
        "options": decisive(options),
        "completes": completes,
        "ours": ours,
    }
    return hash_of(facts)


def hash_of(facts: Mapping[str, Any]) -> str:
    """A hash of facts, of this machine, and of what runs on it, as hex."""
    here = {
        "processor": [cpu_name(), repr(this_cpu()), asdict(available_cores())],
        "versions": {"tnn-serving": VERSION, **{engine.name: engine.version() for engine in ENGINES.usable()}},
    }
    return hashlib.sha256(msgspec.json.encode({**facts, "here": here}, order="deterministic")).hexdigest()


def _decisive(config: ModelConfig) -> dict[str, Any]:
    """What of a configuration decides how a model is prepared. Triton adds to the rest."""
    return {
        "max_batch_size": config.max_batch_size,
        "input": [_tensor_facts(tensor) for tensor in config.input],
        "output": [_tensor_facts(tensor) for tensor in config.output],
        "controls": [_tensor_facts(tensor) for tensor in config.controls],
        "instances": config.instances,
        "rows": config.preferred_batch_size,
        "dynamic": config.dynamic_batching is not None,
        "sequence": config.sequence_batching is not None,
        "parameters": decisive(config.parameters),
    }


def decisive(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters that decide how a model is prepared."""
    return {key: text for key, text in parameters.items() if key not in NOT_DECISIVE}


def _tensor_facts(tensor: TensorConfig) -> list[Any]:
    return [tensor.name, tensor.data_type, tensor.dims, tensor.reshape, tensor.optional]


def digests_of(folder: Path, limits: Limits = UNLIMITED) -> dict[str, str]:
    """Path within a folder and SHA-256 of each of its files, links followed.

    What no model can be made of is not read: a file that is larger than the memory for the model has its size and its
    time in place of the sum.

    Raises FormatError for files that cannot be read.
    """
    paths = sorted(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return {path.relative_to(folder).as_posix(): _digest(path, limits) for path in paths}


def _digest(path: Path, limits: Limits) -> str:
    if not path.is_file():
        return "no file"
    facts = path.stat()
    if limits.memory_bytes is not None and facts.st_size > limits.memory_bytes:
        return f"{facts.st_size} bytes of {facts.st_mtime_ns}"
    return sha256_of(path)


def shapes_of(shapes: Mapping[str, Sequence[int]]) -> Shapes:
    """Shapes as JSON gives them."""
    return {name: tuple(shape) for name, shape in shapes.items()}
