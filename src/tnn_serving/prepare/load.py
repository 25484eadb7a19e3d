"""Loads a network for Python: in this process, or prepared by a worker."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypedDict, overload

from typing_extensions import Unpack

from tnn_serving.choices import Int8Choice, PrecisionChoice
from tnn_serving.config.model_config import CONFIG_FILE, ModelConfig
from tnn_serving.engines import Options
from tnn_serving.errors import ConfigError
from tnn_serving.first_use import made_once
from tnn_serving.model import Model, Running
from tnn_serving.nearest import choice, did_you_mean
from tnn_serving.network.formats import model_files, open_network
from tnn_serving.prepare.model_version import ModelVersion
from tnn_serving.prepare.preparation import Preparation
from tnn_serving.session import Session

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source


class LoadOptions(TypedDict, total=False):
    """The options of :func:`load`, which documents them."""

    int8: Int8Choice
    raw_int8: bool
    precision: PrecisionChoice
    threads: int
    streams: int
    concurrent: bool
    cache_dir: str | os.PathLike[str] | None
    profile: bool


KEYWORDS = ("engine", *LoadOptions.__annotations__, "prepare")


@overload
def load(
    source: Source, engine: str = "auto", *, prepare: Literal[False] = False, **options: Unpack[LoadOptions]
) -> Model: ...


@overload
def load(
    source: Source, engine: str = "auto", *, prepare: Literal[True], **options: Unpack[LoadOptions]
) -> Session: ...


def load(
    source: Source,
    engine: str = "auto",
    *,
    int8: Int8Choice = "auto",
    raw_int8: bool = False,
    precision: PrecisionChoice = "f32",
    threads: int = 0,
    streams: int = 0,
    concurrent: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    profile: bool = False,
    prepare: bool = False,
    **unknown: NoReturn,
) -> Session:
    """Loads a model: reads, translates, compiles.

    Args:
        source: a model folder (its highest version) or a version folder, a .tnnproto with its .tnnmodel beside it,
            an .onnx, (proto, model) as paths or bytes, the bytes of an .onnx, an ``onnx.ModelProto``, or a graph.
        engine: the name of an engine, or "auto": the one that is measured to be fastest at the default shapes, among
            those that can run the network and agree about the answer.
        int8: "exact" gives TNN's code everywhere; "fast" uses the engine's int8 kernels, within one step per layer;
            "auto" is fast where the processor and the network make it safe.
        raw_int8: int8 blobs are codes at the border too, instead of float32.
        precision: "f32"; "bf16" on processors that have it: faster, 0.4 to 2 % off; "auto": bf16 if it is faster by a
            tenth and at most 1 % off on random inputs.
        threads: inference threads, all streams together; 0 for all that the process may use.
        streams: concurrent inferences inside the engine; 0 for one.
        concurrent: as soon as several inferences meet, compile for as many concurrent ones as there are threads too.
        cache_dir: folder where compiled models and measurements are kept between runs; ``None`` for nowhere.
        profile: measure every node, for :meth:`Model.profile`; costs a little time.
        prepare: a worker process reads and compiles the files, with the limits and rights that it has for a server:
            for files of strangers. This process opens what it made, and gives a :class:`Session`. The source is a
            path then. With ``cache_dir``, the next load opens what is kept there. Not with ``concurrent``, ``profile``.
        unknown: none; another keyword is an error, which says what may be meant.

    Raises:
        FormatError: the files are broken.
        UnsupportedLayer: a layer cannot be executed.
        ShapeError, WeightsError: layers do not fit each other or their weights.
        EngineError: no engine compiles the network.
        ConfigError: an unknown engine, option or choice.
        LimitError, WorkerError: with ``prepare``, the worker needed more time or memory than it may, or crashed.
    """
    for name in unknown:
        raise ConfigError(f"unknown option `{name}`", expected=", ".join(KEYWORDS), hint=did_you_mean(name, KEYWORDS))
    choice(Int8Choice, int8, "int8 form")
    choice(PrecisionChoice, precision, "precision")
    options = Options(
        threads=threads,
        streams=streams,
        concurrent=concurrent,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        profile=profile,
    )
    if not prepare:
        running: Running = {"engine": engine, "options": options, "precision": precision, "int8": int8}
        return Model.of(open_network(source), raw_int8=raw_int8, **running)
    for name in ("concurrent", "profile"):
        if getattr(options, name):
            raise ConfigError(f"option `{name}` cannot be combined with prepare")
    parameters = {
        "engine": engine,
        "int8": int8,
        "raw_int8": str(raw_int8).lower(),
        "precision": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": str(streams),
        "cache_dir": str(options.cache_dir or "none"),
    }
    return _prepared(source, parameters)


def _prepared(source: Source, parameters: dict[str, str]) -> Session:
    if not isinstance(source, str | os.PathLike):
        raise ConfigError("only files can be prepared", expected="a path", found=type(source))
    files = model_files(Path(source))
    with tempfile.TemporaryDirectory(prefix="tnn-serving-load-") as scratch:
        # A model folder that says nothing but where the files are.
        folder = Path(scratch, files[0].stem)
        version = ModelVersion(folder, ModelConfig(), 1, options=parameters, shown=files[0].parent)
        for file in files:
            place = version.files / file.relative_to(files[0].parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file.resolve())
        (folder / CONFIG_FILE).write_text("max_batch_size: 0\n")
        return _preparation().load(version).model


@made_once
def _preparation() -> Preparation:
    """The process' own."""
    return Preparation(shares=False)
