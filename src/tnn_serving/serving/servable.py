"""A model that answers requests: reads tensors and pictures, runs the network, and reports what is wrong.

Requests and responses are small records over memory that belongs to the server; nothing here knows Triton's handles.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnn_serving.config.datatypes import TRITON_TYPE
from tnn_serving.config.model_config import CONFIG_FILE, ModelConfig
from tnn_serving.config.reading import CommandLine
from tnn_serving.config.reshape import has_shape
from tnn_serving.engines import TensorSpec
from tnn_serving.engines.shapes import ShapeCounts
from tnn_serving.errors import CancelledError, ConfigError, RequestError, TnnError, located
from tnn_serving.prepare.loaded import Loaded
from tnn_serving.prepare.model_version import Load, ModelVersion
from tnn_serving.serving.observer import SILENT, Observer
from tnn_serving.serving.pictures import PictureReader
from tnn_serving.serving.tensors import RequestTensor, ResponseTensor, array_of, cut
from tnn_serving.serving.workers import WorkerThreads
from tnn_serving.session import Session

log = logging.getLogger(__name__)

WORKERS_FROM_S = 3e-4
"""Inferences that take at least this long run in worker threads, while the server's thread goes on; for shorter ones
the handover would cost more than it gains."""

ServerMemory = Callable[[str, str, tuple[int, ...], int], memoryview]
"""Gives the server's memory for an output: name, datatype, shape and size in bytes."""

AnswerCheck = Callable[[str, Sequence[int]], None]
"""Raises TnnError where an output, by its name, cannot be sent in this shape."""

Response = list[ResponseTensor]
Result = Response | Exception | tuple[Response | Exception, ...]
"""The answer of all requests gathered; the error of all of them; or one of either for each."""


def _in_this_process() -> Load:
    # What reads and translates networks is imported only where that happens.
    from tnn_serving.prepare.loading import load_model

    return load_model


def _nothing(name: str, start_ns: int, end_ns: int) -> None:
    pass


@dataclass(slots=True)
class Requests:
    """One request, or several that agree in all but their rows and were gathered, row behind row.

    Attributes:
        inputs: by name; ``data`` is valid until the requests are answered.
        outputs: names of the requested outputs; none means all.
        rows: of each request.
        is_cancelled: all of the requests have been cancelled.
        allocate: the server's memory for an output (name, datatype, shape, bytes); ``None`` for several requests.
        traced: a trace wants to know where the time goes; ``span`` takes (name, start, end) in ns.
    """

    inputs: dict[str, RequestTensor]
    outputs: tuple[str, ...] = ()
    rows: tuple[int, ...] = (1,)
    traced: bool = False
    is_cancelled: Callable[[], bool] = bool
    allocate: ServerMemory | None = None
    span: Callable[[str, int, int], None] = _nothing


class Servable:
    """A loaded model behind a configuration. ``execute`` may be called from several threads at once.

    Attributes:
        config: Triton's configuration, completed.
        joins: most rows of several requests that may be gathered; 0 for none.
    """

    def __init__(self, name: str, loaded: Loaded, observer: Observer = SILENT) -> None:
        self.name = name
        self._observer = observer
        self.config = loaded.configured.config
        self.model: Session = loaded.model
        self.joins = loaded.joined_rows if loaded.joined_rows > 1 else 0
        self._bindings = loaded.configured.bindings
        self._pictures = _picture_readers(loaded)
        self._encodes = any(binding.kind == "encoded" for binding in self._bindings.values())
        self._outputs = loaded.configured.outputs
        self._reshaped = {tensor.name: tensor.reshape for tensor in self.config.output if tensor.reshape is not None}
        # Triton adds these to the requests of a sequence, and not every network takes them.
        self._controls = {tensor.name for tensor in self.config.controls} - set(self._bindings)
        hands_over = loaded.seconds >= WORKERS_FROM_S and not self.config.needs_resources
        self._workers = WorkerThreads(loaded.configured.plan.in_flight, name) if hands_over else None

    @classmethod
    def open(
        cls,
        folder: Path,
        config: ModelConfig,
        *,
        version: int,
        complete: bool = True,
        options: CommandLine | None = None,
        observer: Observer = SILENT,
        load: Load | None = None,
    ) -> Servable:
        """Loads the model of ``folder/<version>``.

        Args:
            folder: the model's folder in the repository.
            config: Triton's model configuration.
            version: which version.
            complete: fill in what the configuration leaves out.
            options: backend-wide defaults of the parameters in config.pbtxt.
            observer: receives the events of the model.
            load: how; by default in this process.

        Raises:
            FormatError, UnsupportedLayer, ShapeError, EngineError: the model cannot be loaded.
            ConfigError: configuration and network disagree.
        """
        asked = ModelVersion(folder, config, version, complete, options or {})
        with located(f"model `{asked.name}`, version {version}"):
            started = time.monotonic()
            loaded = (load or _in_this_process())(asked)
            observer.loaded(time.monotonic() - started)
            model = loaded.model
            observer.engine(model.engine, model.choice.precision, model.int8_form)
            return cls(asked.name, loaded, observer)

    def close(self) -> None:
        """Releases the network; no request may be running."""
        if self._workers is not None:
            self._workers.close()
        del self.model

    def execute(self, requests: Requests, finish: Callable[[Result], None]) -> Result | None:
        """Answers requests, or says what is wrong with them; a bad request never affects its neighbours.

        Returns ``None`` if the answer goes to ``finish`` later, in another thread.
        """
        if self._workers is None:
            return self._answer(requests)
        came_ns = time.monotonic_ns() if requests.traced else 0
        self._workers.submit(lambda: finish(self._answer(requests, came_ns)))
        return None

    def shape_counts(self) -> ShapeCounts:
        """Inferences with and without an executable of their own shape so far, and how many of these there are."""
        total = ShapeCounts()
        for cache in self.model.shape_caches():
            total.hits += cache.counts.hits
            total.misses += cache.counts.misses
            total.size += cache.counts.size
            total.memory_bytes += cache.counts.memory_bytes
        return total

    def memory_bytes(self) -> int:
        """An estimate of the network's memory: its weights as read, and what is compiled of them."""
        caches = self.model.shape_caches()
        return self.model.analysis.weight_bytes * (1 + len(caches)) + sum(cache.memory_bytes for cache in caches)

    def _answer(self, requests: Requests, came_ns: int = 0) -> Result:
        if came_ns:
            requests.span("batch", came_ns, time.monotonic_ns())
        result = self._guarded(requests)
        if isinstance(result, RequestError) and len(requests.rows) > 1:
            return tuple(self._guarded(alone) for alone in _apart(requests))
        return result

    def _guarded(self, requests: Requests) -> Response | Exception:
        """The answer, or the error: one of ours gets the model's name as its place."""
        try:
            return self._response(requests)
        except TnnError as error:
            error.where = (f"model `{self.name}`", *error.where)
            return error
        except Exception as error:
            log.exception("model `%s` failed on a request", self.name)
            return error

    def _response(self, requests: Requests) -> Response:
        if requests.is_cancelled():
            raise CancelledError("the request was cancelled before it ran")
        for name in requests.outputs:
            if name not in self._outputs:
                raise RequestError(f"there is no output `{name}`", expected=", ".join(self._outputs))
        begin_ns = time.monotonic_ns() if requests.traced or self._encodes else 0
        feeds = {name: self._fed(tensor) for name, tensor in requests.inputs.items() if name not in self._controls}
        wanted = requests.outputs or self._outputs
        check = self._check_reshaped if self._reshaped else None
        lending = None if requests.allocate is None else _Lending(requests.allocate, wanted, check)
        if self._encodes:
            self._observer.decoded((time.monotonic_ns() - begin_ns) * 1e-9)
        self._observer.batch(sum(requests.rows))
        if not requests.traced:
            answer = self.model.infer(feeds, self._outputs, lending)
        else:
            fed_ns = time.monotonic_ns()
            answer = self.model.infer(feeds, self._outputs, lending)
            requests.span("decode", begin_ns, fed_ns)
            requests.span("infer", fed_ns, time.monotonic_ns())
        lent = () if lending is None else lending.lent
        if check is not None:
            for name in wanted:
                check(name, answer[name].shape)
        return [_tensor(name, answer[name]) for name in wanted if name not in lent]

    def _check_reshaped(self, name: str, shape: Sequence[int]) -> None:
        """Checks that an answer has the shape that ``reshape`` promises: Triton counts on it without looking.

        Raises:
            ConfigError: it has another one.
        """
        wanted = self._reshaped.get(name)
        if wanted is not None and not has_shape(shape[1:] if self.config.batched else shape, wanted):
            raise ConfigError(
                f"{CONFIG_FILE}, output `{name}`: the answer to this request does not fit `reshape`",
                expected=[*(-1,) * self.config.batched, *wanted],
                found=list(shape),
            )

    def _fed(self, tensor: RequestTensor) -> np.ndarray:
        binding = self._bindings.get(tensor.name)
        if binding is None:
            raise RequestError(f"there is no input `{tensor.name}`", expected=", ".join(self._bindings))
        try:
            if binding.kind != "tensor":
                return self._pictures[tensor.name].pixels(tensor)
            array = array_of(tensor, binding.datatype)
            return array.reshape(array.shape[:-1]) if binding.scalar else array
        except TnnError as error:  # not `located`: this runs for every request
            error.where = (f"input `{tensor.name}`", *error.where)
            raise


def _picture_readers(loaded: Loaded) -> dict[str, PictureReader]:
    shapes = {spec.name: spec.shape for spec in loaded.model.inputs}
    configured = loaded.configured
    return {
        name: PictureReader.of(
            picture,
            shapes[name][-1] or 0,  # [N, H, W, C], and C is fixed by the weights
            encoded=configured.bindings[name].kind == "encoded",
            memory_limit_bytes=configured.settings.memory_limit_bytes,
        )
        for name, picture in configured.settings.pictures
    }


class _Lending:
    """Gives the server's memory for requested outputs.

    Attributes:
        lent: names of the outputs that are computed there.
    """

    __slots__ = ("_allocate", "_check", "_wanted", "lent")

    def __init__(self, allocate: ServerMemory, wanted: Sequence[str], check: AnswerCheck | None) -> None:
        self._allocate = allocate
        self._wanted = wanted
        self._check = check
        self.lent: tuple[str, ...] = ()

    def __call__(self, spec: TensorSpec) -> np.ndarray | None:
        if spec.name not in self._wanted:
            return None
        shape = tuple([dim or 0 for dim in spec.shape])
        if self._check is not None:
            self._check(spec.name, shape)
        size = math.prod(shape) * spec.dtype.itemsize
        memory = self._allocate(spec.name, TRITON_TYPE[spec.dtype], shape, size)
        self.lent = (*self.lent, spec.name)
        return np.frombuffer(memory, spec.dtype).reshape(shape)


def _apart(requests: Requests) -> list[Requests]:
    """Each of the gathered requests by itself."""
    pieces = {name: cut(tensor, requests.rows) for name, tensor in requests.inputs.items()}
    return [
        Requests({name: cuts[k] for name, cuts in pieces.items()}, requests.outputs, (rows,))
        for k, rows in enumerate(requests.rows)
    ]


def _tensor(name: str, array: np.ndarray) -> ResponseTensor:
    # Triton has no tensor without dims; a scalar is sent as [1]. What engines answer is contiguous.
    return ResponseTensor(name, TRITON_TYPE[array.dtype], array.shape or (1,), array)
