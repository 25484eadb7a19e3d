"""A model that answers requests: reading tensors, pictures, running, and telling what is wrong.

Requests and responses are small records over memory that belongs to the server; nothing here knows Triton's handles.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnn_serving.config.model_config import TRITON_TYPE, Binding
from tnn_serving.config.plan import takes_turns
from tnn_serving.config.settings import Settings
from tnn_serving.engines import TensorSpec
from tnn_serving.engines.shapes import ShapeCounts
from tnn_serving.errors import CancelledError, RequestError, TnnError, located
from tnn_serving.model import Model
from tnn_serving.prepare.loading import Loaded, load_model
from tnn_serving.serving.lanes import Lanes
from tnn_serving.serving.observer import SILENT, Observer
from tnn_serving.serving.pictures import prepare
from tnn_serving.serving.tensors import RequestTensor, ResponseTensor, array_of, cut

log = logging.getLogger(__name__)

LANES_FROM_S = 3e-4
"""Inferences that take at least this long run in threads of their own, while the server's thread goes on; for shorter
ones handing over would cost more than it gains."""

ServerMemory = Callable[[str, str, tuple[int, ...], int], memoryview]
"""Gives the server's memory for an output: name, datatype, shape and size in bytes."""

Response = list[ResponseTensor]
Result = Response | Exception | tuple[Response | Exception, ...]
"""The answer of all requests gathered; the error of all of them; or one of either for each."""


def _nothing(name: str, start_ns: int, end_ns: int) -> None:
    pass


@dataclass(slots=True)
class Requests:
    """One request, or several that agree in all but their rows and were gathered, row behind row.

    Attributes:
        inputs: by name; ``data`` is valid until the answer is given.
        outputs: what is asked for; nothing means all.
        rows: of each request.
        is_cancelled: nobody waits for any of the answers any more.
        allocate: the server's memory for an output (name, datatype, shape, bytes); ``None`` for several requests.
        traced: somebody wants to know what the time goes into; ``span`` takes (name, start, end) in ns.
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
        self.model: Model = loaded.model
        self.joins = loaded.joined_rows if loaded.joined_rows > 1 else 0
        self._settings: Settings = loaded.configured.settings
        self._bindings: Mapping[str, Binding] = loaded.configured.bindings
        # Picture inputs are [N, H, W, C], and C is fixed by the weights.
        self._channels = {s.name: s.shape[-1] or 0 for s in self.model.inputs if s.name in self._settings.pictures}
        self._encodes = any(binding.kind == "encoded" for binding in self._bindings.values())
        self._outputs = tuple(str(item["name"]) for item in self.config["output"])
        # Triton adds these to the requests of a sequence; a network that takes one declares it as an input.
        controls = self.config.get("sequence_batching", {}).get("control_input", [])
        self._controls = {str(item["name"]) for item in controls} - set(self._bindings)
        hands_over = loaded.seconds >= LANES_FROM_S and not takes_turns(self.config)
        self._lanes = Lanes(loaded.configured.plan.in_flight, name) if hands_over else None

    @classmethod
    def open(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        *,
        version: int,
        complete: bool = True,
        options: Mapping[str, str] | None = None,
        observer: Observer = SILENT,
    ) -> Servable:
        """Loads the model of ``folder/<version>``.

        Args:
            folder: the model's folder in the repository.
            config: Triton's model configuration.
            version: which version.
            complete: fill in what the configuration leaves out.
            options: backend-wide defaults of the parameters in config.pbtxt.
            observer: is told what happens.

        Raises:
            FormatError, UnsupportedLayer, ShapeError, EngineError: the model cannot be loaded.
            ConfigError: configuration and network disagree.
        """
        name = str(config.get("name") or folder.name)
        with located(f"model `{name}`, version {version}"):
            started = time.monotonic()
            loaded = load_model(name, folder, config, version=version, completes=complete, options=options)
            observer.compiled(time.monotonic() - started)
            model = loaded.model
            form = model.int8.form.value if model.int8 is not None else "none"
            observer.engine(model.engine, model.choice.precision, form)
            return cls(name, loaded, observer)

    def close(self) -> None:
        """Lets go of the network; no request may be running."""
        if self._lanes is not None:
            self._lanes.close()
        del self.model

    def execute(self, requests: Requests, finish: Callable[[Result], None]) -> Result | None:
        """Answers requests, or says what is wrong with them; one never affects another.

        Returns ``None`` if the answer will be given to ``finish``, in another thread.
        """
        if self._lanes is None:
            return self._answer(requests)
        came_ns = time.monotonic_ns() if requests.traced else 0
        self._lanes.submit(lambda: finish(self._answer(requests, came_ns)))
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
        """An estimate of what the network takes: its weights as read, and what is compiled of them."""
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
        lending = None if requests.allocate is None else _Lending(requests.allocate, wanted)
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
        return [_tensor(name, answer[name]) for name in wanted if name not in lent]

    def _fed(self, tensor: RequestTensor) -> np.ndarray:
        binding = self._bindings.get(tensor.name)
        if binding is None:
            raise RequestError(f"there is no input `{tensor.name}`", expected=", ".join(self._bindings))
        try:
            if binding.kind == "tensor":
                return array_of(tensor, binding.datatype)
            return prepare(
                tensor,
                binding,
                self._settings.pictures[tensor.name],
                self._channels[tensor.name],
                most_bytes=self._settings.memory_limit_bytes,
            )
        except TnnError as error:  # not `located`: this runs for every request
            error.where = (f"input `{tensor.name}`", *error.where)
            raise


class _Lending:
    """Gives the server's memory for outputs that are asked for.

    Attributes:
        lent: names of the outputs that are computed there.
    """

    __slots__ = ("_allocate", "_wanted", "lent")

    def __init__(self, allocate: ServerMemory, wanted: Sequence[str]) -> None:
        self._allocate = allocate
        self._wanted = wanted
        self.lent: tuple[str, ...] = ()

    def __call__(self, spec: TensorSpec) -> np.ndarray | None:
        if spec.name not in self._wanted:
            return None
        shape = tuple([dim or 0 for dim in spec.shape])
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
    # Triton knows no tensor without dims; a scalar is sent as [1]. What engines answer is contiguous.
    return ResponseTensor(name, TRITON_TYPE[array.dtype], array.shape or (1,), array)
