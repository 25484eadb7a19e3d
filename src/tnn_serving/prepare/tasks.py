"""What workers do: prepare a model, compile it for more, and say which shapes it takes.

Arguments and results are of JSON's types; what is large goes through files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.reading import read_settings
from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import Limits
from tnn_serving.engines import ENGINES, Executable, Shapes
from tnn_serving.errors import RequestError
from tnn_serving.guards.executable import compile_guarded, export_guarded
from tnn_serving.guards.graph import guard
from tnn_serving.model import Model
from tnn_serving.network.base import Network, Variant
from tnn_serving.network.formats import open_network
from tnn_serving.prepare.compiling import CompileRequest
from tnn_serving.prepare.loading import LoadedHere, load_files
from tnn_serving.prepare.prepared import EXECUTABLE, FILES, PLACE, VALUE, Prepared, StoredArray, shapes_of

LOGGED_BY_THE_SERVER = ("tnn_serving.config", "tnn_serving.prepare.configuring")
"""Loggers of what a configuration causes: the process that opens the model logs that itself, each time."""


@dataclass(frozen=True, slots=True)
class PrepareOrder:
    """A model to prepare; paths are absolute. See :func:`~tnn_serving.prepare.loading.load_files`."""

    name: str
    files: str
    config: dict[str, Any]
    completes: bool
    ours: bool
    options: dict[str, str]
    out: str
    log_level: int


@dataclass(frozen=True, slots=True)
class Question:
    """A prepared model's files, and what to know of them.

    Attributes:
        source: a folder with the value as ``prepared.json``, and a copy of the model's files in ``files``.
        memory_bytes: what the network may need at one shape.
    """

    source: str
    memory_bytes: int
    outputs: list[str]
    fed: list[str]
    shapes: dict[str, list[int]] | None = None
    streams: int = 0
    values: dict[str, StoredArray] | None = None
    out: str = ""


def prepare(arguments: Mapping[str, Any]) -> None:
    """Prepares a model: ``prepared.json`` and the executables are in the folder ``out`` of :class:`PrepareOrder`.

    Its time is limited from outside, where waiting for a processor does not count.
    """
    order = msgspec.convert(arguments, PrepareOrder)
    logging.getLogger("tnn_serving").setLevel(order.log_level)
    config_warnings: list[str] = []
    for name in LOGGED_BY_THE_SERVER:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(_Collecting(config_warnings))
    warnings: list[str] = []
    logging.getLogger("tnn_serving").addHandler(_Collecting(warnings))
    config = ModelConfig.read(order.config)
    options = {key: text for key, text in order.options.items() if key != "cache_dir"}
    settings = read_settings(config, {**options, "load_timeout_s": "0"})
    loaded = load_files(
        order.name, Path(order.files), config, settings, completes=order.completes, ours=order.ours, exports=True
    )
    write(loaded, _Texts(order.files, warnings, config_warnings), Path(order.out))


class _Collecting(logging.Handler):
    """Collects warnings, each sentence once."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._texts:
            self._texts.append(text)


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a load has warned of; texts that are stored name no folder that is gone the next time."""

    files: str
    warnings: list[str]
    config_warnings: list[str]

    def placed(self, text: str) -> str:
        return text.replace(self.files, PLACE)


def write(loaded: LoadedHere, texts: _Texts, out: Path) -> None:
    """Writes a model that was loaded with ``exports`` as a prepared one. Raises EngineError."""
    model, config = loaded.model, loaded.configured.config
    export = model.export()
    request = CompileRequest.of(loaded.configured)
    prepared = Prepared(
        analysis=replace(model.analysis, source=texts.placed(model.analysis.source)).to_json().decode(),
        max_batch_size=config.max_batch_size,
        input=[tensor.to_json() for tensor in config.input],
        output=[tensor.to_json() for tensor in config.output],
        batching=config.dynamic_batching.to_json() if config.dynamic_batching is not None else None,
        choice=model.choice,
        int8=model.int8_form,
        options=export.options,
        served=request.outputs,
        sizes=model.sizes,
        sized={name: StoredArray.of(array) for name, array in model.sized.items()},
        joined_rows=loaded.joined_rows,
        seconds=loaded.seconds,
        batched=loaded.batched,
        specialises=export.specialises,
        shapes=[dict(shapes) for shapes, _ in export.fixed],
        needs=[_need(model, shapes) for shapes, _ in export.fixed],
        warnings=[texts.placed(text) for text in texts.warnings],
        config_warnings=[texts.placed(text) for text in texts.config_warnings],
        models_key=repr(request.key(model.analysis)),
    )
    for number, content in enumerate([export.general, *(content for _, content in export.fixed)]):
        (out / f"{EXECUTABLE}{number}").write_bytes(content)
    (out / VALUE).write_bytes(prepared.to_json())


def _need(model: Model, shapes: Shapes) -> int | None:
    try:
        return model.memory_at(shapes)
    except RequestError:  # values of inputs decide as well, so that each request is asked about
        return None


def compile_more(arguments: Mapping[str, Any]) -> bool:
    """Compiles as :class:`Question` says, into the file ``executable0`` of its folder ``out``.

    Returns False where the engine is as good without.
    """
    question = msgspec.convert(arguments, Question)
    prepared, network = _reopened(question)
    analysis = prepared.analysed(Path(question.source) / FILES)
    form = Form(prepared.int8) if prepared.int8 != "none" else Form.EXACT
    variant = Variant(tuple(question.outputs), tuple(question.fed), analysis.pictures, form, analysis.raw_int8)
    made = guard(network.translate(variant).proto(), network.limits.memory_bytes)
    compiled: Executable | None = compile_guarded(ENGINES[prepared.choice.engine], made, prepared.options)
    if compiled is not None and question.shapes is not None:
        compiled = compiled.at(shapes_of(question.shapes))
    if compiled is not None and question.streams:
        compiled = compiled.concurrent(question.streams)
    if compiled is None:
        return False
    Path(question.out, f"{EXECUTABLE}0").write_bytes(export_guarded(compiled, made))
    return True


def answer_shapes(arguments: Mapping[str, Any]) -> int:
    """The memory in bytes that the network needs at the shapes in :class:`Question`.

    Raises ShapeError, LimitError: the network does not take them.
    """
    question = msgspec.convert(arguments, Question)
    _, network = _reopened(question)
    values = {name: stored.array() for name, stored in (question.values or {}).items()}
    return network.check_shapes(shapes_of(question.shapes or {}), question.fed, values).memory_bytes


def _reopened(question: Question) -> tuple[Prepared, Network]:
    source = Path(question.source)
    prepared = Prepared.from_json((source / VALUE).read_bytes())
    network = open_network(source / FILES, Limits(question.memory_bytes))
    if prepared.batched:
        network, _ = network.batched(prepared.served, asked=True)
    return prepared, network.settled()
