"""Translates between the C shim and :mod:`tnn_serving.serving.servable`; runs inside tritonserver.

The shim imports this module once and calls :func:`start`, then :meth:`Backend.open_model` for each model version and
:meth:`Model.execute` for each group of requests, from several server threads at once. What both sides must agree on is
declared in :mod:`tnn_serving.triton.backend.contract`.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import cast

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.engines.background import BACKGROUND
from tnn_serving.engines.shapes import ShapeCounts
from tnn_serving.errors import TnnError
from tnn_serving.prepare.preparation import Preparation
from tnn_serving.serving.servable import Requests, Response, Result, Servable, ServerMemory
from tnn_serving.serving.tensors import RequestTensor
from tnn_serving.triton.backend.contract import (
    LATER,
    SHIM_MODULE,
    Answer,
    Answers,
    ErrorCode,
    ExecuteResult,
    LogLevel,
    Shim,
    TritonError,
)
from tnn_serving.triton.backend.errors import triton_error
from tnn_serving.triton.backend.failures import Failures
from tnn_serving.triton.backend.memory import give_back, in_own_mappings
from tnn_serving.triton.backend.metrics import Metrics, ModelMetrics

SWITCH_INTERVAL_S = 0.0002
"""How long one server thread may keep the GIL while another waits. With Python's default of 5 ms, a model that computes
in Python delays every answer of all other models by that much."""

STACKS_SIGNAL = signal.SIGUSR1
"""Has Python print what each of its threads is doing to stderr."""

TRITONS_OWN_OPTIONS = frozenset(
    {"auto-complete-config", "backend-directory", "default-max-batch-size", "min-compute-capability"}
)
"""What Triton puts into every backend's command line configuration by itself."""

log = logging.getLogger(__name__)


class TritonLogHandler(logging.Handler):
    """Writes log records into Triton's log, so that ``--log-*`` flags and the logging extension govern them."""

    LEVELS = (  # from the worst
        (logging.ERROR, LogLevel.ERROR),
        (logging.WARNING, LogLevel.WARN),
        (logging.INFO, LogLevel.INFO),
    )

    def __init__(self, shim: Shim) -> None:
        super().__init__()
        self._shim = shim

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((level for least, level in self.LEVELS if record.levelno >= least), LogLevel.VERBOSE)
            # C strings: no lone surrogates, no zero bytes.
            text = self.format(record).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
            self._shim.log(level, record.filename, record.lineno, text)
        except Exception:
            self.handleError(record)


def start(config_json: str) -> Backend:
    """Starts what runs beside the models; called by the shim once, in Python's main thread.

    Args:
        config_json: the backend's configuration, with the ``--backend-config=tnn,key=value`` flags under ``cmdline``.
    """
    shim = cast(Shim, importlib.import_module(SHIM_MODULE))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    BACKGROUND.around = in_own_mappings
    # For crashes while models are loaded at the server's start, when Triton has no handler yet: shows which model and
    # step. Later Triton's own handler, which replaces this one, shows the C frames.
    faulthandler.enable()
    # For executions that hang: the supervisor asks for the stacks of all threads before it kills the server.
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    logging.getLogger().addHandler(TritonLogHandler(shim))
    logging.captureWarnings(True)
    verbose = shim.log_enabled(LogLevel.VERBOSE)
    logging.getLogger("tnn_serving").setLevel(logging.DEBUG if verbose else logging.INFO)
    log.info("Python %s runs inside the server, prefix %s", sys.version.split()[0], sys.prefix)
    cmdline = json.loads(config_json).get("cmdline", {})
    return Backend(shim, {key: value for key, value in cmdline.items() if key not in TRITONS_OWN_OPTIONS})


def log_exception(where: str, error: BaseException, frames: TracebackType | None) -> None:
    """Writes an error that was not raised on purpose into Triton's log, with its traceback."""
    if not isinstance(error, TritonError | TnnError):
        log.error("%s", where, exc_info=(type(error), error, frames))


class Backend:
    """What all models share. The shim has the only one, from its :func:`start` until :meth:`close`.

    Attributes:
        preparation: loads the models.
    """

    def __init__(self, shim: Shim, options: Mapping[str, str]) -> None:
        self._options = options
        self._metrics = Metrics(shim)
        self.preparation = Preparation()
        self._models: set[BackendModel] = set()
        self._models_lock = threading.Lock()

    def open_model(
        self, handle: int, name: str, version: int, folder: str, config_json: str, complete: bool
    ) -> BackendModel:
        """Opens one version of a model; called by the shim in one of Triton's loading threads.

        Args:
            handle: the TRITONBACKEND_Model.
            folder: the model's folder, which holds the numbered version folders.
            config_json: the model's configuration as Triton has it.
            complete: whether Triton will take a completed configuration.

        Raises:
            TritonError: the model can't be opened; the text becomes the load error.
        """
        metrics = self._metrics.model(name, version)
        try:
            with ExitStack() as undo:
                undo.callback(metrics.close)
                with in_own_mappings():
                    servable = Servable.open(
                        Path(folder),
                        ModelConfig.read(json.loads(config_json)),
                        version=version,
                        complete=complete,
                        options=self._options,
                        observer=metrics,
                        load=self.preparation.load,
                    )
                undo.callback(servable.close)
                metrics.watch(handle)
                model = BackendModel(self, name, version, servable, metrics, Path(folder).parent)
                undo.pop_all()
        except BaseException as error:
            log_exception(f"opening model {name} version {version}", error, error.__traceback__)
            raise triton_error(error, Path(folder).parent) from None
        finally:
            give_back()
        with self._models_lock:
            self._models.add(model)
        return model

    def forget(self, model: BackendModel) -> None:
        """Nothing of ``model`` is published any more when this returns."""
        with self._models_lock:
            self._models.remove(model)

    def beat(self) -> None:
        """Publishes that the interpreter moves, and what the models have counted; called by the shim twice a second, in
        Python's main thread."""
        self._metrics.beat()
        with self._models_lock:
            for model in self._models:
                model.publish()

    def close(self) -> None:
        """Ends what :func:`start` started; called by the shim when the server ends and all models are closed."""
        # Before Python's end: its last frames are no longer worth a look, and the handler must not outlive them.
        faulthandler.unregister(STACKS_SIGNAL)
        faulthandler.disable()
        BACKGROUND.stop()
        self.preparation.close()
        self._metrics.close()
        logging.shutdown()


class BackendModel:
    """One version of a model, shared by its instances: :meth:`execute` is re-entrant.

    Attributes:
        completed_config: JSON of the configuration for Triton, UTF-8.
        max_batch_size: 0 when the model takes no batches.
        joins: most rows of requests that the shim may gather into a group; 0: each request is a group.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        version: int,
        servable: Servable,
        metrics: ModelMetrics,
        repository: Path,
    ) -> None:
        self.completed_config = json.dumps(servable.config.to_json()).encode()
        self.max_batch_size = servable.config.max_batch_size
        self.joins = servable.joins
        self._backend = backend
        self._title = f"model {name} version {version}"
        self._servable = servable
        self._metrics = metrics
        self._repository = repository
        self._failures = Failures(metrics.engine_errors)
        self._published_counts = ShapeCounts()
        metrics.memory(servable.memory_bytes())
        metrics.shape_cache(0, 0, 0)

    def execute(
        self,
        inputs: dict[str, RequestTensor],
        outputs: tuple[str, ...],
        rows: tuple[int, ...],
        finish: Callable[[Answers], None],
        is_cancelled: Callable[[], bool],
        allocate: ServerMemory | None,
        span: Callable[[str, int, int], None] | None,
    ) -> ExecuteResult:
        """The answers to a group of requests, or :data:`LATER`; called by the shim in a server thread.

        The functions are those of :class:`~tnn_serving.triton.backend.contract.GroupFunctions`.

        Args:
            inputs: by name, of all requests, row behind row; their memory is valid until the group is answered.
            outputs: the names that each of the requests asks for.
            rows: of each request.
            allocate: ``None`` for several requests, whose memory is not in one piece.
            span: ``None`` where no request is traced.
        """
        self._backend.preparation.yields = True
        requests = Requests(inputs, outputs, rows, span is not None, is_cancelled, allocate)
        if span is not None:
            requests.span = span
        try:
            result = self._servable.execute(requests, lambda result: finish(self._answers(result)))
        except BaseException as error:  # SystemExit too: a model must not end the server's thread
            log_exception(f"executing {self._title}", error, error.__traceback__)
            return self._error(error)
        return LATER if result is None else self._answers(result)

    def close(self) -> None:
        """Called by the shim when Triton has unloaded the model and its instances are gone."""
        self._backend.forget(self)
        self._metrics.close()
        self._servable.close()
        del self._servable
        give_back()

    def _answers(self, result: Result) -> Answers:
        if isinstance(result, tuple):
            return tuple([self._answer(each) for each in result])
        return self._answer(result)

    def _answer(self, response: Response | Exception) -> Answer:
        if isinstance(response, BaseException):
            return self._error(response)  # the Servable has logged what is unexpected
        self._failures.answered()
        return response

    def _error(self, error: BaseException) -> TritonError:
        converted = triton_error(error, self._repository)
        if converted.triton_code == ErrorCode.INTERNAL:
            self._failures.failed()
        return converted

    def publish(self) -> None:
        """Publishes what the servable has counted since the last time."""
        now, before = self._servable.shape_counts(), self._published_counts
        if now == before:
            return
        self._metrics.shape_cache(now.hits - before.hits, now.misses - before.misses, now.size)
        if now.memory_bytes != before.memory_bytes:
            self._metrics.memory(self._servable.memory_bytes())
        self._published_counts = now
