"""Translates between the C shim's tuples and :mod:`tnn_serving.serving.servable`; runs inside tritonserver.

The shim imports this module once, calls :func:`backend_init`, then :func:`open_model` for each model version and
:meth:`Model.execute` for each batch, from several server threads at once. What arrives and leaves are plain tuples;
the shim's side of them is described in ``batch.c``. Errors leave as :class:`TritonError`, whose ``triton_code`` is one
of Triton's error codes: :data:`TRITON_CODES` is the one place that knows them.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, TypeAlias, cast

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
from tnn_serving.serving.servable import Request, RequestTensor, ResponseTensor, Servable

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

TRITONS_OWN_OPTIONS = frozenset(
    {"auto-complete-config", "backend-directory", "default-max-batch-size", "min-compute-capability"}
)
"""What Triton puts into every backend's command line configuration by itself."""

InputTuple: TypeAlias = tuple[str, str, tuple[int, ...], memoryview]
RequestTuple: TypeAlias = tuple[
    int,  # ticket: names the request towards the shim
    str,  # id
    int | str,  # correlation id
    int,  # flags
    tuple[InputTuple, ...],
    tuple[str, ...],  # requested outputs
    tuple[tuple[str, str | int | bool | float | None], ...],  # parameters
    int,  # timeout_us
]
OutputTuple: TypeAlias = tuple[str, str, tuple[int, ...], object]  # the last: any C-contiguous buffer

log = logging.getLogger(__name__)


class Shim(Protocol):
    """The module ``_tnn_triton`` that the C library registers; it exists inside tritonserver only."""

    def log(self, level: int, file: str, line: int, message: str, /) -> None: ...
    def log_enabled(self, level: int, /) -> bool: ...
    def is_cancelled(self, ticket: int, /) -> bool: ...
    def alloc_output(
        self, ticket: int, name: str, datatype: str, shape: Sequence[int], nbytes: int, /
    ) -> memoryview: ...
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
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # For crashes while models are loaded at the server's start, when Triton has no handler yet: shows which model and
    # step. Later Triton's own handler, which replaces this one, shows the C frames.
    faulthandler.enable()
    root = logging.getLogger()
    root.addHandler(TritonLogHandler(_Backend.shim))
    logging.captureWarnings(True)
    verbose = _Backend.shim.log_enabled(LOG_VERBOSE)
    logging.getLogger("tnn_serving").setLevel(logging.DEBUG if verbose else logging.INFO)
    log.info("Python %s runs inside the server, prefix %s", sys.version.split()[0], sys.prefix)


def backend_fini() -> None:
    """Called by the shim when the server ends and all models are closed."""
    # Before Python's end: its last frames are no longer worth a look, and the handler must not outlive them.
    faulthandler.disable()
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
    try:
        with _first_alone():
            servable = Servable.open(
                Path(folder), json.loads(config_json), version=version, complete=complete, options=_Backend.options
            )
    except BaseException as error:
        log_exception(f"opening model {name} version {version}", error, error.__traceback__)
        raise triton_error(error) from None
    return Model(handle, name, version, servable)


class Model:
    """One version of a model, shared by its instances: :meth:`execute` is re-entrant.

    Attributes:
        completed_config: JSON of the configuration for Triton, UTF-8.
        max_batch_size: 0 when the model takes no batches.
    """

    def __init__(self, handle: int, name: str, version: int, servable: Servable) -> None:
        self.handle = handle
        self.name = name
        self.version = version
        self._servable = servable
        self.completed_config = json.dumps(servable.config).encode()
        self.max_batch_size = int(servable.config.get("max_batch_size", 0))

    def execute(self, batch: list[RequestTuple]) -> list[list[OutputTuple] | TritonError]:
        """One result for each request, in order: its outputs or its error."""
        try:
            results = self._servable.execute([_request(request) for request in batch])
        except BaseException as error:  # SystemExit too: a model must not end the server's thread
            log_exception(f"executing model {self.name} version {self.version}", error, error.__traceback__)
            return [triton_error(error)] * len(batch)
        return [self._result(result) for result in results]

    def _result(self, result: list[ResponseTensor] | Exception) -> list[OutputTuple] | TritonError:
        if isinstance(result, BaseException):
            return triton_error(result)  # the Servable has logged what it did not expect
        try:
            return [(tensor.name, tensor.datatype, tensor.shape, tensor.data) for tensor in result]
        except Exception as error:  # not what a Servable returns; the other requests still get their answers
            log_exception(f"result of model {self.name} version {self.version}", error, error.__traceback__)
            return triton_error(error)

    def close(self) -> None:
        """Called by the shim when Triton has unloaded the model and its instances are gone."""
        self._servable.close()


def _request(request: RequestTuple) -> Request:
    ticket, request_id, correlation_id, flags, inputs, outputs, parameters, timeout_us = request
    return Request(
        id=request_id,
        inputs={name: RequestTensor(name, datatype, shape, data) for name, datatype, shape, data in inputs},
        outputs=outputs,
        parameters={key: value for key, value in parameters if value is not None},
        correlation_id=correlation_id,
        flags=flags,
        timeout_us=timeout_us,
        is_cancelled=partial(_Backend.shim.is_cancelled, ticket),
    )
