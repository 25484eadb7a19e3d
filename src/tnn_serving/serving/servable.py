"""A model that answers lists of requests: reading tensors, pictures, running, and telling what is wrong.

Requests and responses are small records over memory that belongs to the server; nothing here knows Triton's handles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tnn_serving.engines import TensorSpec
from tnn_serving.errors import CancelledError, ConfigError, RequestError, TnnError, located
from tnn_serving.formats import read_model
from tnn_serving.formats.folder import model_files
from tnn_serving.model import Model
from tnn_serving.serving.batching import Feeds, groups, joined, rows_are_independent, split
from tnn_serving.serving.config import (
    TRITON_TYPE,
    Settings,
    bind_inputs,
    check_outputs,
    complete,
    read_settings,
)
from tnn_serving.serving.pictures import prepare
from tnn_serving.serving.side_by_side import side_by_side
from tnn_serving.serving.tensors import RequestTensor, ResponseTensor, array_of

log = logging.getLogger(__name__)


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
        # Picture inputs are [N, H, W, C], and C is fixed by the weights.
        self._channels = {spec.name: spec.shape[-1] or 0 for spec in model.inputs if spec.name in settings.pictures}
        self._prepares = any(
            binding.kind == "encoded" or (binding.kind == "pixels" and settings.pictures[name].fit.size)
            for name, binding in self._bindings.items()
        )
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
        for index, taken in enumerate(self._taken_all(requests)):
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

    def _taken_all(self, requests: Sequence[Request]) -> list[Feeds | Exception]:
        """Of each request; pictures of several are decoded and resized side by side."""
        take = partial(self._guarded, self._taken)
        return side_by_side(take, requests) if self._prepares else [take(request) for request in requests]

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
            if binding.kind == "tensor":
                return array_of(tensor, binding.datatype)
            return prepare(tensor, binding, self._settings.pictures[tensor.name], self._channels[tensor.name])


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


def _responses(names: Sequence[str], answer: Feeds) -> Response:
    return [_response(name, answer[name]) for name in names]


def _response(name: str, array: np.ndarray) -> ResponseTensor:
    # Triton knows no tensor without dims; a scalar is sent as [1].
    shape = array.shape or (1,)
    return ResponseTensor(name, TRITON_TYPE[array.dtype], shape, np.ascontiguousarray(array).reshape(shape))
