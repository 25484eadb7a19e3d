"""A model that answers requests: reading tensors, pictures, running, and telling what is wrong.

Requests and responses are small records over memory that belongs to the server; nothing here knows Triton's handles.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tnn_serving.engines import TensorSpec
from tnn_serving.errors import CancelledError, ConfigError, RequestError, TnnError, located
from tnn_serving.formats import read_model
from tnn_serving.formats.folder import model_files
from tnn_serving.model import Model
from tnn_serving.pictures.decode import decode
from tnn_serving.pictures.resize import resize
from tnn_serving.serving.batching import Feeds, rows_are_independent
from tnn_serving.serving.config import (
    NUMPY_TYPE,
    TRITON_TYPE,
    Binding,
    Settings,
    bind_inputs,
    check_outputs,
    complete,
    read_settings,
)
from tnn_serving.serving.observer import SILENT, Observer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestTensor:
    """An input of a request: Triton's type name, shape, and its bytes in one piece."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


def _no_span(name: str, start_ns: int, end_ns: int) -> None:
    pass


@dataclass(slots=True)
class Requests:
    """Requests that are answered together: one, or several whose rows stand behind each other in each input.

    Attributes:
        inputs: ``data`` of each is valid until the answer is given.
        outputs: what every one of the requests asks for.
        rows: how many of the first axis each request has; 1 each when the model takes no batches.
        traced: somebody looks at ``span``.
        is_cancelled: whether nobody waits for the answer any more.
        allocate: ``(name, datatype, shape, nbytes)`` to writable memory of an output, which is then left out of the
            response; None when there are several requests.
        span: ``(name, start_ns, end_ns)`` of ``time.monotonic_ns()``: tells a trace of a step of the work.
    """

    inputs: dict[str, RequestTensor]
    outputs: tuple[str, ...] = ()
    rows: tuple[int, ...] = (1,)
    traced: bool = False
    is_cancelled: Callable[[], bool] = bool
    allocate: Callable[[str, str, tuple[int, ...], int], memoryview] | None = None
    span: Callable[[str, int, int], None] = _no_span


@dataclass(slots=True)
class ResponseTensor:
    """An output of a response; ``data`` is C-contiguous."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray


Response = list[ResponseTensor]
Result = Response | Exception | tuple[Response | Exception, ...]
"""One answer for all requests, of which each gets its rows; an error of all; or one of these for each."""

T = TypeVar("T")


class Servable:
    """A loaded model behind a configuration. ``execute`` may be called from several threads at once.

    Attributes:
        joins: most rows of requests that may be gathered; 0: never.
    """

    def __init__(
        self, name: str, model: Model, settings: Settings, config: dict[str, Any], observer: Observer = SILENT
    ) -> None:
        self.name = name
        self.config = config
        self.model = model
        self._settings = settings
        self._bindings = bind_inputs(config, model.inputs, settings)
        missing = [s.name for s in model.inputs if s.name not in self._bindings and s.name not in model.optional_inputs]
        if missing:
            raise ConfigError(f"config.pbtxt lacks input `{missing[0]}`", hint="add it, or leave the section out")
        self._outputs = [str(item["name"]) for item in config["output"]]
        # Triton adds these to the requests of a sequence; a network that takes one declares it as an input.
        controls = config.get("sequence_batching", {}).get("control_input", [])
        self._controls = {str(item["name"]) for item in controls} - set(self._bindings)
        independent = settings.max_batch_size > 1 and rows_are_independent(model, self._outputs)
        self.joins = settings.max_batch_size if independent else 0
        self._observer = observer
        check_outputs(config, model.blobs())
        log.info("%s runs on %s", name, model.engine)

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
            observer: is told what the model does.

        Raises:
            FormatError, UnsupportedLayer, ShapeError, EngineError: the model cannot be loaded.
            ConfigError: configuration and network disagree.
        """
        name = str(config.get("name") or folder.name)
        with located(f"model `{name}`, version {version}"):
            merged = _with_defaults(config, options or {})
            settings = read_settings(merged)
            graph = read_model(*model_files(folder / str(version)))
            model = Model(
                graph,
                settings.engine,
                settings.options,
                pictures=settings.pictures,
                int8=settings.int8,
                raw_int8=settings.raw_int8,
            )
            _warn_of_bare_pixels(name, settings)
            filled = _completed(config, model) if complete else dict(config)
            if not filled.get("input") and model.inputs:
                raise ConfigError("config.pbtxt has no inputs", hint="allow Triton to complete configurations")
            return cls(name, model, settings, filled, observer)

    def close(self) -> None:
        """Lets go of the network; no request may be running."""
        del self.model

    def execute(self, requests: Requests, finish: Callable[[Result], None]) -> Result | None:
        """Answers requests, or says what is wrong with them. When several fail together, each is tried alone.

        Args:
            finish: takes the answer later, from another thread, when None is returned.
        """
        response = self._guarded(self._answer, requests)
        if isinstance(response, Exception) and len(requests.rows) > 1:
            return tuple(self._guarded(self._answer, part) for part in _parts(requests))
        return response

    def _answer(self, requests: Requests) -> Response:
        """Raises RequestError for requests that cannot be right, whatever the network says."""
        if requests.is_cancelled():
            raise CancelledError("the request was cancelled before it ran")
        unknown = [name for name in requests.outputs if name not in self._outputs]
        if unknown:
            raise RequestError(f"there is no output `{unknown[0]}`", expected=", ".join(self._outputs))
        inputs = requests.inputs.values()
        feeds = {tensor.name: self._fed(tensor) for tensor in inputs if tensor.name not in self._controls}
        self._observer.batch(sum(requests.rows))
        begin = time.monotonic_ns()
        answer = self.model.run(feeds, outputs=self._outputs)
        requests.span("infer", begin, time.monotonic_ns())
        return _responses(requests.outputs or self._outputs, answer)

    def _guarded(self, action: Callable[..., T], *arguments: object) -> T | Exception:
        """What ``action`` returns, or the error it raises: an error of ours gets the model's name as its place."""
        try:
            return action(*arguments)
        except TnnError as error:
            error.where = (f"model `{self.name}`", *error.where)
            return error
        except Exception as error:
            log.exception("model `%s` failed on a request", self.name)
            return error

    def _fed(self, tensor: RequestTensor) -> np.ndarray:
        binding = self._bindings.get(tensor.name)
        if binding is None:
            raise RequestError(f"there is no input `{tensor.name}`", expected=", ".join(self._bindings))
        with located(f"input `{tensor.name}`"):
            if binding.kind == "encoded":
                return self._decoded(tensor)
            array = _array(tensor, binding)
            return array if binding.kind == "tensor" else self._sized(tensor.name, array)

    def _sized(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """Pixels [H, W, C] or [N, H, W, C] as [N, H, W, C], in the size that the configuration asks for."""
        batch = pixels[None] if pixels.ndim == 3 else pixels
        size = self._settings.pictures[name].resize
        if size is None or batch.shape[1:3] == size:
            return batch
        if 0 in batch.shape:
            raise RequestError("picture is empty", found=list(pixels.shape))
        return np.stack([resize(picture, *size) for picture in batch])

    def _decoded(self, tensor: RequestTensor) -> np.ndarray:
        pictures = [self._sized(tensor.name, decode(data)) for data in _elements(tensor)]
        if not pictures:
            raise RequestError("no picture", expected="1 element", found=list(tensor.shape))
        if any(picture.shape != pictures[0].shape for picture in pictures):
            sizes = ", ".join(f"{p.shape[2]} x {p.shape[1]}" for p in pictures)
            raise RequestError("pictures of one request differ in size", found=sizes, hint="set the parameter `resize`")
        return np.concatenate(pictures)


def _warn_of_bare_pixels(name: str, settings: Settings) -> None:
    """Networks that want pixels as they are exist, but a missing scale is the likelier reason."""
    for key, picture in settings.pictures.items():
        if picture.scale == (1.0,) and picture.bias == (0.0,):
            log.warning("%s: no `scale` and `bias` for picture input `%s`: the network gets pixels 0 to 255", name, key)


def _with_defaults(config: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    defaults = {key: {"string_value": value} for key, value in options.items()}
    return {**config, "parameters": {**defaults, **config.get("parameters", {})}}


def _completed(config: Mapping[str, Any], model: Model) -> dict[str, Any]:
    outputs: list[TensorSpec] = model.outputs
    if config.get("output"):
        # Any blob may be named, and what is left out of it filled in.
        outputs = list(model.blobs().values())
    return complete(config, inputs=model.inputs, outputs=outputs, optional=model.optional_inputs)


def _array(tensor: RequestTensor, binding: Binding) -> np.ndarray:
    """The tensor's bytes as an array, in place. Raises RequestError if type or byte count do not fit."""
    if tensor.datatype != binding.datatype:
        raise RequestError("wrong type", expected=binding.datatype, found=tensor.datatype)
    dtype = NUMPY_TYPE[binding.datatype]
    count = math.prod(tensor.shape)
    if tensor.data.nbytes != count * dtype.itemsize:
        raise RequestError(
            "wrong number of bytes",
            expected=f"{count * dtype.itemsize} for {list(tensor.shape)}",
            found=tensor.data.nbytes,
        )
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def _parts(requests: Requests) -> Iterator[Requests]:
    """Each request by itself."""
    at = dict.fromkeys(requests.inputs, 0)
    for rows in requests.rows:
        inputs = {}
        for name, tensor in requests.inputs.items():
            if tensor.datatype == "BYTES":
                lengths = [4 + len(data) for data in _elements(replace(tensor, data=tensor.data[at[name] :]))]
                size = sum(lengths[: rows * math.prod(tensor.shape[1:])])
            else:
                size = tensor.data.nbytes // tensor.shape[0] * rows
            data = tensor.data[at[name] : at[name] + size]
            at[name] += size
            inputs[name] = replace(tensor, shape=(rows, *tensor.shape[1:]), data=data)
        yield replace(requests, inputs=inputs, rows=(rows,))


def _elements(tensor: RequestTensor) -> Iterator[bytes]:
    """The elements of a BYTES tensor: each has its length before it, 4 bytes little-endian."""
    data, at = tensor.data, 0
    if tensor.datatype != "BYTES":
        raise RequestError("wrong type", expected="BYTES", found=tensor.datatype)
    while at < data.nbytes:
        if data.nbytes - at < 4:
            raise RequestError("BYTES tensor is cut off", found=f"{data.nbytes - at} bytes left")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > data.nbytes - at:
            raise RequestError("BYTES tensor is cut off", expected=f"{length} bytes", found=f"{data.nbytes - at} left")
        yield bytes(data[at : at + length])
        at += length


def _responses(names: Sequence[str], answer: Feeds) -> Response:
    return [_response(name, answer[name]) for name in names]


def _response(name: str, array: np.ndarray) -> ResponseTensor:
    # Triton knows no tensor without dims; a scalar is sent as [1].
    shape = array.shape or (1,)
    return ResponseTensor(name, TRITON_TYPE[array.dtype], shape, np.ascontiguousarray(array).reshape(shape))
