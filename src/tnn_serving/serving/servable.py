"""A model that answers lists of requests: reading tensors, pictures, running, and telling what is wrong.

Requests and responses are small records over memory that belongs to the server; nothing here knows Triton's handles.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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
from tnn_serving.serving.batching import Feeds, groups, joined, rows_are_independent, split
from tnn_serving.serving.config import (
    NUMPY_TYPE,
    TRITON_TYPE,
    Binding,
    Settings,
    bind_inputs,
    check_outputs,
    complete,
    read_settings,
    with_defaults,
)
from tnn_serving.serving.manifest import check_manifest
from tnn_serving.serving.recorded_case import RECORDED, check_recorded
from tnn_serving.translate.limits import spelled_bytes

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestTensor:
    """An input of a request: Triton's type name, shape, and its bytes in one piece."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(slots=True)
class Request:
    """One inference request. ``data`` of its inputs is valid until :meth:`Servable.execute` returns."""

    id: str
    inputs: dict[str, RequestTensor]
    outputs: tuple[str, ...] = ()
    parameters: dict[str, str | int | bool | float] = field(default_factory=dict)
    correlation_id: int | str = 0
    flags: int = 0
    timeout_us: int = 0
    is_cancelled: Callable[[], bool] = bool


@dataclass(slots=True)
class ResponseTensor:
    """An output of a response; ``data`` is C-contiguous."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray


Response = list[ResponseTensor]
T = TypeVar("T")


class Servable:
    """A loaded model behind a configuration. ``execute`` may be called from several threads at once."""

    def __init__(self, name: str, model: Model, settings: Settings, config: dict[str, Any]) -> None:
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
        self._joins = settings.max_batch_size > 1 and rows_are_independent(model, self._outputs)
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
    ) -> Servable:
        """Loads the model of ``folder/<version>``.

        Args:
            folder: the model's folder in the repository.
            config: Triton's model configuration.
            version: which version.
            complete: fill in what the configuration leaves out.
            options: backend-wide defaults of the parameters in config.pbtxt.

        Raises:
            FormatError, UnsupportedLayer, ShapeError, EngineError: the model cannot be loaded.
            ConfigError: configuration and network disagree.
        """
        name = str(config.get("name") or folder.name)
        with located(f"model `{name}`, version {version}"):
            settings = read_settings(with_defaults(config, options or {}))
            check_manifest(folder, version=version, required=settings.require_manifest)
            graph = read_model(*model_files(folder / str(version)))
            model = Model(
                graph,
                settings.engine,
                settings.options,
                pictures=settings.pictures,
                int8=settings.int8,
                raw_int8=settings.raw_int8,
                limits=settings.limits(),
            )
            check_recorded(model, folder / str(version) / RECORDED, settings.check_tolerance)
            _warn_of_bare_pixels(name, settings)
            filled = _completed(config, model) if complete else dict(config)
            if not filled.get("input") and model.inputs:
                raise ConfigError("config.pbtxt has no inputs", hint="allow Triton to complete configurations")
            return cls(name, model, settings, filled)

    def close(self) -> None:
        """Lets go of the network; no request may be running."""
        del self.model

    def execute(self, requests: Sequence[Request]) -> list[Response | Exception]:
        """Answers each request, or says what is wrong with it; one never affects another.

        Requests that agree in their shapes run as one inference, if the configuration has batches and the network
        treats rows independently. One that fails is tried again request by request.
        """
        results: dict[int, Response | Exception] = {}
        feeds: dict[int, Feeds] = {}
        for index, request in enumerate(requests):
            taken = self._guarded(self._taken, request)
            if isinstance(taken, Exception):
                results[index] = taken
            else:
                feeds[index] = taken
        order = list(feeds)
        limit = self._settings.max_batch_size if self._joins else 0
        for group in groups([feeds[index] for index in order], limit):
            results.update(self._answered([(order[k], requests[order[k]], feeds[order[k]]) for k in group]))
        return [results[index] for index in range(len(requests))]

    def _answered(self, group: Sequence[tuple[int, Request, Feeds]]) -> dict[int, Response | Exception]:
        answers: list[dict[str, np.ndarray]] | None = None
        if len(group) > 1:
            together = [feed for _, _, feed in group]
            with suppress(TnnError):
                answers = split(self.model.run(joined(together), outputs=self._outputs), together)
        if answers is None:
            return {index: self._guarded(self._answer, request, feed) for index, request, feed in group}
        return {
            index: _responses(self._wanted(request), answer)
            for (index, request, _), answer in zip(group, answers, strict=True)
        }

    def _answer(self, request: Request, feeds: Feeds) -> Response:
        return _responses(self._wanted(request), self.model.run(feeds, outputs=self._outputs))

    def _taken(self, request: Request) -> Feeds:
        """The arrays of a request. Raises RequestError for one that cannot be right, whatever the network says."""
        if request.is_cancelled():
            raise CancelledError("the request was cancelled before it ran")
        unknown = [name for name in request.outputs if name not in self._outputs]
        if unknown:
            raise RequestError(f"there is no output `{unknown[0]}`", expected=", ".join(self._outputs))
        return {name: self._fed(tensor) for name, tensor in request.inputs.items() if name not in self._controls}

    def _wanted(self, request: Request) -> Sequence[str]:
        return request.outputs or self._outputs

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
        pictures: list[np.ndarray] = []
        for data in _elements(tensor):
            pictures.append(self._sized(tensor.name, decode(data)))
            if sum(picture.nbytes for picture in pictures) > self._settings.memory_limit_bytes:
                raise RequestError(
                    "pictures of one request are too large together",
                    expected=f"at most {spelled_bytes(self._settings.memory_limit_bytes)} of pixels",
                    hint="the parameter `memory_limit_bytes` allows more",
                )
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
