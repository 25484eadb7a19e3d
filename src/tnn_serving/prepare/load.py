"""Loads a network for Python: in this process, or prepared by a worker."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from tnn_serving.config.model_config import CONFIG_FILE, ModelConfig
from tnn_serving.engines import Options
from tnn_serving.errors import ConfigError
from tnn_serving.model import Model
from tnn_serving.network.formats import model_files, open_network
from tnn_serving.prepare.preparation import Preparation
from tnn_serving.session import Session

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source

PREPARED_OPTIONS = {"threads": "INFERENCE_NUM_THREADS", "streams": "NUM_STREAMS", "cache_dir": "cache_dir"}
"""Options that a worker takes, and the parameters of a configuration that they are."""


@overload
def load(
    source: Source,
    engine: str = "auto",
    *,
    int8: str = "auto",
    raw_int8: bool = False,
    prepare: Literal[False] = False,
    **options: object,
) -> Model: ...


@overload
def load(
    source: Source,
    engine: str = "auto",
    *,
    int8: str = "auto",
    raw_int8: bool = False,
    prepare: Literal[True],
    **options: object,
) -> Session: ...


def load(
    source: Source,
    engine: str = "auto",
    *,
    int8: str = "auto",
    raw_int8: bool = False,
    prepare: bool = False,
    **options: object,
) -> Session:
    """Loads a model: reads, translates, compiles.

    Args:
        source: a model folder (its highest version) or a version folder, a .tnnproto with its .tnnmodel beside it,
            an .onnx, (proto, model) as paths or bytes, the bytes of an .onnx, an ``onnx.ModelProto``, or a graph.
        engine: the name of an engine, or "auto": the one that is measured to be fastest at the default shapes, among
            those that can run the network and agree about the answer.
        int8: "exact" gives TNN's code everywhere; "fast" uses the engine's int8 kernels, within one step a layer;
            "auto" is fast where the processor and the network make it safe.
        raw_int8: int8 blobs are codes at the border too, instead of float32.
        prepare: a worker process reads and compiles the files, with the limits and rights that it has for a server:
            for files of strangers. This process opens what it made, and gives a :class:`Session`. The source is a
            path then. With ``cache_dir``, the next load opens what is kept there.
        options: see :class:`tnn_serving.engines.Options`. ``precision`` may be "auto" too: bf16 if that is faster by
            a tenth and at most 1 % off on random inputs. With ``prepare``: ``precision``, ``threads``, ``streams`` and
            ``cache_dir``.

    Raises:
        FormatError: the files are broken.
        UnsupportedLayer: a layer cannot be executed.
        ShapeError, WeightsError: layers do not fit each other or their weights.
        EngineError: no engine compiles the network.
        ConfigError: an unknown engine or option.
        LimitError, WorkerError: with ``prepare``, the worker needed more time or memory than it may, or crashed.
    """
    precision = options.pop("precision", "f32")
    if prepare:
        asked = {"engine": engine, "int8": int8, "raw_int8": str(raw_int8).lower(), "precision": str(precision)}
        return _prepared(source, {**asked, **_parameters(options)})
    return Model.of(
        open_network(source),
        raw_int8=raw_int8,
        engine=engine,
        options=Options.of(options),
        precision=str(precision),
        int8=int8,
    )


def _parameters(options: dict[str, object]) -> dict[str, str]:
    Options.of(options)
    other = sorted(set(options) - set(PREPARED_OPTIONS))
    if other:
        raise ConfigError(f"option `{other[0]}` cannot be combined with prepare", expected=", ".join(PREPARED_OPTIONS))
    values = {PREPARED_OPTIONS[name]: value for name, value in options.items() if value is not None}
    return {key: os.fspath(value) if isinstance(value, Path) else str(value) for key, value in values.items()}


def _prepared(source: Source, parameters: dict[str, str]) -> Session:
    if not isinstance(source, str | os.PathLike):
        raise ConfigError("only files can be prepared", expected="a path", found=type(source))
    files = model_files(Path(source))
    with tempfile.TemporaryDirectory(prefix="tnn-serving-load-") as folder:
        # A model folder that says nothing but where the files are.
        version = Path(folder, "1")
        version.mkdir()
        for file in files:
            place = version / file.relative_to(files[0].parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file.resolve())
        Path(folder, CONFIG_FILE).write_text("max_batch_size: 0\n")
        loaded = _preparation().load(
            files[0].stem, Path(folder), ModelConfig(), version=1, options=parameters, shown=files[0].parent
        )
    return loaded.model


@cache
def _preparation() -> Preparation:
    """The process' own."""
    return Preparation()
