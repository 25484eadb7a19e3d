"""Translates between the C shim's tuples and :mod:`tnn_serving.serving.servable`; runs inside tritonserver.

The shim imports this module once, calls :func:`backend_init`, then :func:`open_model` for each model version and
:meth:`Model.execute` for each group of requests, from several server threads at once. What arrives and leaves are plain
tuples; the shim's side of them is ``tuples.c`` and ``responses.c``. Errors leave as :class:`TritonError`, whose
``triton_code`` is one of Triton's error codes: :data:`TRITON_CODES` is the one place that knows them.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, TypeAlias, cast

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.engines.background import BACKGROUND
from tnn_serving.engines.shapes import ShapeCounts
from tnn_serving.errors import (
    CancelledError,
    ConfigError,
    EngineError,
    FormatError,
    LimitError,
    RequestError,
    ServerError,
    ShapeError,
    TnnError,
    UnsupportedLayer,
)
from tnn_serving.serving.servable import Requests, Response, Result, Servable
from tnn_serving.serving.tensors import RequestTensor
from tnn_serving.triton.backend.executions import Failures, Watch
from tnn_serving.triton.backend.memory import give_back, in_own_mappings
from tnn_serving.triton.backend.metrics import Metrics, ModelMetrics, Publisher

# TRITONSERVER_Error_Code
UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

TRITON_CODES: Mapping[type[TnnError], int] = {
    TnnError: INTERNAL,
    FormatError: INVALID_ARG,
    UnsupportedLayer: UNSUPPORTED,
    ShapeError: INVALID_ARG,
    LimitError: INVALID_ARG,
    ConfigError: INVALID_ARG,
    RequestError: INVALID_ARG,
    CancelledError: CANCELLED,
    EngineError: INTERNAL,
    ServerError: UNAVAILABLE,
}
"""Triton's code (and through it the HTTP and gRPC status) of each error; a subclass has its nearest base's."""

# TRITONSERVER_LogLevel
LOG_INFO, LOG_WARN, LOG_ERROR, LOG_VERBOSE = range(4)
_LOG_LEVELS = {
    logging.DEBUG: LOG_VERBOSE,
    logging.INFO: LOG_INFO,
    logging.WARNING: LOG_WARN,
    logging.ERROR: LOG_ERROR,
    logging.CRITICAL: LOG_ERROR,
}

SWITCH_INTERVAL_S = 0.0002
"""How long one server thread may keep the GIL while another waits. With Python's default of 5 ms, a model that computes
in Python delays every answer of all other models by that much."""

STACKS_SIGNAL = signal.SIGUSR1
"""Has Python print what each of its threads is doing to stderr."""

TRITONS_OWN_OPTIONS = frozenset(
    {"auto-complete-config", "backend-directory", "default-max-batch-size", "min-compute-capability"}
)
"""What Triton puts into every backend's command line configuration by itself."""

InputTuple: TypeAlias = tuple[str, str, tuple[int, ...], memoryview]
GroupTuple: TypeAlias = tuple[
    int,  # ticket: names the group towards the shim
    bool,  # traced
    tuple[int, ...],  # rows of each request
    tuple[InputTuple, ...],
    tuple[str, ...],  # requested outputs
]
Answer: TypeAlias = "Response | TritonError"

log = logging.getLogger(__name__)


class Shim(Publisher, Protocol):
    """The module ``_tnn_triton`` that the C library registers; it exists inside tritonserver only."""

    def log(self, level: int, file: str, line: int, message: str, /) -> None: ...
    def log_enabled(self, level: int, /) -> bool: ...
    def finish(self, ticket: int, result: Answer | tuple[Answer, ...], /) -> None: ...
    def is_cancelled(self, ticket: int, /) -> bool: ...
    def alloc_output(
        self, ticket: int, name: str, datatype: str, shape: tuple[int, ...], nbytes: int, /
    ) -> memoryview: ...
    def span(self, ticket: int, name: str, start_ns: int, end_ns: int, /) -> None: ...
    def oldest_execution(self, model_handle: int, /) -> float: ...
    def unload(self, model_handle: int, name: str, /) -> None: ...


class TritonError(Exception):
    """An error in Triton's terms: a text and one of its codes, and no frames that would keep tensors alive."""

    def __init__(self, triton_code: int, text: str) -> None:
        super().__init__(text)
        self.triton_code = triton_code


def triton_error(error: BaseException) -> TritonError:
    """``error`` in Triton's terms.

    The frames of ``error`` are emptied: a reference cycle through them would keep arrays over request memory, which
    Triton frees after the answer.
    """
    if isinstance(error, TnnError):
        code = next(TRITON_CODES[base] for base in type(error).__mro__ if base in TRITON_CODES)
        result = TritonError(code, str(error))
    else:
        text = str(error)
        result = TritonError(INTERNAL, f"{type(error).__name__}: {text}" if text else type(error).__name__)
    _drop_frames(error)
    return result


def _drop_frames(error: BaseException) -> None:
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        current = following.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        following += [current.__cause__, current.__context__]
        if current.__traceback__ is not None:
            traceback.clear_frames(current.__traceback__)
            current.__traceback__ = None


class TritonLogHandler(logging.Handler):
    """Writes log records into Triton's log, so that ``--log-*`` flags and the logging extension govern them."""

    def __init__(self, shim: Shim) -> None:
        super().__init__()
        self._shim = shim

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((code for least, code in _FROM_WORST if record.levelno >= least), LOG_VERBOSE)
            # C strings: no lone surrogates, no zero bytes.
            text = self.format(record).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
            self._shim.log(level, record.filename, record.lineno, text)
        except Exception:
            self.handleError(record)


_FROM_WORST = sorted(_LOG_LEVELS.items(), reverse=True)


class _Backend:
    """What is set once when the backend starts, and whether a model has been opened yet."""

    shim: Shim
    options: Mapping[str, str]
    metrics: Metrics
    watch: Watch
    first_open: ClassVar[threading.Lock] = threading.Lock()
    opened: ClassVar[bool] = False


@contextmanager
def _first_alone() -> Iterator[None]:
    """Lets models be opened side by side only when one has been opened.

    Libraries set things up at their first use, and not all are ready for several threads doing that at once: OpenVINO's
    bindings fill C++ function statics with calls into Python, so that a thread which waits for such a static with the
    GIL and one that fills it and wants the GIL back wait for each other for ever.
    """
    if _Backend.opened:
        yield
        return
    with _Backend.first_open:
        yield
        _Backend.opened = True  # not after an error: it may have come before the libraries were used


def backend_init(config_json: str) -> None:
    """Called by the shim once, in Python's main thread, before any model is opened.

    Args:
        config_json: the backend's configuration, with the ``--backend-config=tnn,key=value`` flags under ``cmdline``.
    """
    _Backend.shim = cast(Shim, importlib.import_module("_tnn_triton"))
    cmdline = json.loads(config_json).get("cmdline", {})
    _Backend.options = {key: value for key, value in cmdline.items() if key not in TRITONS_OWN_OPTIONS}
    _Backend.metrics = Metrics(_Backend.shim)
    _Backend.watch = Watch(_Backend.shim.oldest_execution)
    BACKGROUND.around = in_own_mappings
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # For crashes while models are loaded at the server's start, when Triton has no handler yet: shows which model and
    # step. Later Triton's own handler, which replaces this one, shows the C frames.
    faulthandler.enable()
    # For executions that hang: the supervisor asks for the stacks of all threads before it kills the server.
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    root = logging.getLogger()
    root.addHandler(TritonLogHandler(_Backend.shim))
    logging.captureWarnings(True)
    verbose = _Backend.shim.log_enabled(LOG_VERBOSE)
    logging.getLogger("tnn_serving").setLevel(logging.DEBUG if verbose else logging.INFO)
    log.info("Python %s runs inside the server, prefix %s", sys.version.split()[0], sys.prefix)


def backend_fini() -> None:
    """Called by the shim when the server ends and all models are closed."""
    # Before Python's end: its last frames are no longer worth a look, and the handler must not outlive them.
    faulthandler.unregister(STACKS_SIGNAL)
    faulthandler.disable()
    _Backend.watch.stop()
    BACKGROUND.stop()
    logging.shutdown()


def log_exception(where: str, error: BaseException, frames: TracebackType | None) -> None:
    """Writes an error that nobody raised on purpose into Triton's log, with its traceback."""
    if not isinstance(error, TritonError | TnnError):
        log.error("%s", where, exc_info=(type(error), error, frames))


def open_model(handle: int, name: str, version: int, folder: str, config_json: str, complete: bool) -> Model:
    """Opens one version of a model; called by the shim in one of Triton's loading threads.

    Args:
        handle: the TRITONBACKEND_Model, for :meth:`Shim.unload`.
        folder: the model's folder, which holds the numbered version folders.
        config_json: the model's configuration as Triton has it.
        complete: whether Triton will take a completed configuration.

    Raises:
        TritonError: the model can't be opened; the text becomes the load error.
    """
    metrics = _Backend.metrics.model(name, version)
    try:
        with _first_alone(), in_own_mappings():
            servable = Servable.open(
                Path(folder),
                ModelConfig.read(json.loads(config_json)),
                version=version,
                complete=complete,
                options=_Backend.options,
                observer=metrics,
            )
    except BaseException as error:
        metrics.close()
        log_exception(f"opening model {name} version {version}", error, error.__traceback__)
        raise triton_error(error) from None
    finally:
        give_back()
    return Model(handle, name, version, servable, metrics)


class Group(Requests):
    """Requests under the shim's ticket, and what the shim can do for them.

    One is made for each group, so it makes little else: most functions that a Requests carries are methods here.
    """

    __slots__ = ("_failures", "_ticket")

    def __init__(
        self,
        ticket: int,
        inputs: dict[str, RequestTensor],
        outputs: tuple[str, ...],
        rows: tuple[int, ...],
        traced: bool,
        failures: Failures,
    ) -> None:
        self._ticket = ticket
        self._failures = failures
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.traced = traced
        self.allocate = partial(_Backend.shim.alloc_output, ticket) if len(rows) == 1 else None

    def is_cancelled(self) -> bool:
        return _Backend.shim.is_cancelled(self._ticket)

    def span(self, name: str, start_ns: int, end_ns: int) -> None:
        if self.traced:
            _Backend.shim.span(self._ticket, name, start_ns, end_ns)

    def finish(self, result: Result) -> None:
        """Answers the group if :meth:`Model.execute` gave None.

        Raises:
            RuntimeError: it has been answered before.
        """
        _Backend.shim.finish(self._ticket, _told(result, self._failures))


class Model:
    """One version of a model, shared by its instances: :meth:`execute` is re-entrant.

    Attributes:
        completed_config: JSON of the configuration for Triton, UTF-8.
        max_batch_size: 0 when the model takes no batches.
        joins: most rows of requests that the shim may gather; 0: never.
    """

    def __init__(self, handle: int, name: str, version: int, servable: Servable, metrics: ModelMetrics) -> None:
        self.handle = handle
        self.name = name
        self.version = version
        self._servable = servable
        self._metrics = metrics
        self._told_counts = ShapeCounts()
        metrics.memory(servable.memory_bytes())
        self._failures = Failures(metrics.engine_errors)
        _Backend.watch.add(handle, self._publish)
        self.completed_config = json.dumps(servable.config.to_json()).encode()
        self.max_batch_size = servable.config.max_batch_size
        self.joins = servable.joins

    def execute(self, group: GroupTuple) -> Answer | tuple[Answer, ...] | None:
        """The outputs of a group or its error, or one of these for each request; None: they come later."""
        ticket, traced, rows, tensors, outputs = group
        inputs = {}
        for tensor in tensors:
            inputs[tensor[0]] = RequestTensor(*tensor)
        requests = Group(ticket, inputs, outputs, rows, traced, self._failures)
        watch = _Backend.watch
        if watch.sleeps:
            watch.wake()
        try:
            result = self._servable.execute(requests, requests.finish)
        except BaseException as error:  # SystemExit too: a model must not end the server's thread
            log_exception(f"executing model {self.name} version {self.version}", error, error.__traceback__)
            return _told_error(error, self._failures)
        return None if result is None else _told(result, self._failures)

    def _publish(self, oldest_s: float) -> None:
        """Called about twice a second while something runs."""
        self._metrics.oldest_execution(oldest_s)
        now, before = self._servable.shape_counts(), self._told_counts
        self._metrics.shape_cache(now.hits - before.hits, now.misses - before.misses, now.size)
        if now.memory_bytes != before.memory_bytes:
            self._metrics.memory(self._servable.memory_bytes())
        self._told_counts = now

    def close(self) -> None:
        """Called by the shim when Triton has unloaded the model and its instances are gone."""
        _Backend.watch.remove(self.handle)
        self._metrics.close()
        self._servable.close()
        del self._servable
        give_back()


def _told(result: Result, failures: Failures) -> Answer | tuple[Answer, ...]:
    """A result for the shim, which reads outputs from a list as they are, and empties it: whoever made the list may
    keep it for longer than the engine can spare the memory of the outputs."""
    if isinstance(result, tuple):
        return tuple([_told_one(each, failures) for each in result])
    return _told_one(result, failures)


def _told_one(response: Response | Exception, failures: Failures) -> Answer:
    if isinstance(response, BaseException):
        return _told_error(response, failures)  # the Servable has logged surprises
    failures.answered()
    return response


def _told_error(error: BaseException, failures: Failures) -> TritonError:
    told = triton_error(error)
    if told.triton_code == INTERNAL:
        failures.failed()
    return told
