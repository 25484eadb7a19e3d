"""Triton's model configuration as typed records: the fields that are used here, all others kept.

The names are those of Triton's ``model_config.proto``. A configuration comes as JSON from Triton, or as text
(:mod:`tnn_serving.config.text`), and leaves as JSON with everything that came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tnn_serving.config.message import Message, entry, integers, message, messages, read_integers

BACKEND = "tnn"
CONFIG_FILE = "config.pbtxt"

ConfigDims = tuple[int, ...]

_IN_CONFIG = {"BYTES": "TYPE_STRING"}
"""Element types whose names differ in ``config.pbtxt``; the others get the prefix ``TYPE_``."""

_IN_REQUESTS = {**{name: datatype for datatype, name in _IN_CONFIG.items()}, "TYPE_INVALID": ""}


def config_type(datatype: str) -> str:
    """The name in ``config.pbtxt`` of an element type: ``TYPE_FP32`` for ``FP32``."""
    return _IN_CONFIG.get(datatype, f"TYPE_{datatype}")


def request_type(data_type: str) -> str:
    """The name in requests of a type in ``config.pbtxt``: ``FP32`` for ``TYPE_FP32``; empty for ``TYPE_INVALID``."""
    return _IN_REQUESTS.get(data_type, data_type.removeprefix("TYPE_"))


def _reshape(json: Mapping[str, Any]) -> ConfigDims | None:
    return read_integers(json.get("shape", ()))


def _reshape_json(shape: ConfigDims | None) -> object:
    return {"shape": list(shape or ())}


@dataclass(frozen=True, slots=True)
class TensorConfig(Message):
    """An input or output. Dims have no batch where ``max_batch_size`` is above 0; -1 is a free dim.

    Attributes:
        dims: of the tensor as clients send or get it.
        reshape: of the tensor as the network has it; ``None`` if that is the same.
        optional: an input that requests may leave out.
        label_filename: of an output: a file of class names in the model folder.
        is_shape_tensor: of TensorRT's kind.
    """

    name: str = entry(str, "")
    data_type: str = entry(str, "TYPE_INVALID")
    dims: ConfigDims = integers()
    reshape: ConfigDims | None = entry(_reshape, None, _reshape_json)
    optional: bool = entry(bool, False)
    label_filename: str = entry(str, "")
    is_shape_tensor: bool = entry(bool, False)

    @property
    def datatype(self) -> str:
        """The type as requests name it; empty if it is left out."""
        return request_type(self.data_type)

    @property
    def shape(self) -> ConfigDims:
        """Dims of the tensor as the network has it, without the batch."""
        return self.dims if self.reshape is None else self.reshape


@dataclass(frozen=True, slots=True)
class LatestVersions(Message):
    """The policy to serve the latest versions."""

    num_versions: int = entry(int, 0)


@dataclass(frozen=True, slots=True)
class SpecificVersions(Message):
    """The policy to serve the versions that are named."""

    versions: tuple[int, ...] = integers()


@dataclass(frozen=True, slots=True)
class VersionPolicy(Message):
    """Which versions are served: at most one of these; without any, the latest version."""

    latest: LatestVersions | None = message(LatestVersions)
    all: Message | None = message(Message)
    specific: SpecificVersions | None = message(SpecificVersions)


@dataclass(frozen=True, slots=True)
class RateLimiter(Message):
    """What an instance needs to run; only whether it needs any resource is used."""

    resources: tuple[Message, ...] = messages(Message)


@dataclass(frozen=True, slots=True)
class InstanceGroup(Message):
    """Instances of a model."""

    count: int = entry(int, 0)
    kind: str = entry(str, "KIND_AUTO")
    gpus: tuple[int, ...] = integers()
    rate_limiter: RateLimiter | None = message(RateLimiter)


@dataclass(frozen=True, slots=True)
class Batching(Message):
    """How requests are gathered: ``dynamic_batching``, or the strategy ``oldest`` of ``sequence_batching``."""

    preferred_batch_size: tuple[int, ...] = integers()


@dataclass(frozen=True, slots=True)
class Control(Message):
    """What a control tensor says: false or true, as one of two values; or the sequence's ID, of ``data_type``."""

    int32_false_true: tuple[int, ...] = integers()
    fp32_false_true: tuple[float, ...] = entry(tuple, ())
    bool_false_true: tuple[bool, ...] = entry(tuple, ())
    data_type: str = entry(str, "TYPE_INVALID")

    @property
    def tensor_type(self) -> str:
        """The type of the tensor."""
        pairs = (
            (self.int32_false_true, "TYPE_INT32"),
            (self.fp32_false_true, "TYPE_FP32"),
            (self.bool_false_true, "TYPE_BOOL"),
        )
        return next((name for values, name in pairs if values), self.data_type)


@dataclass(frozen=True, slots=True)
class ControlInput(Message):
    """A tensor that Triton adds to each request of a sequence: [1], and in front of it the batch."""

    name: str = entry(str, "")
    control: tuple[Control, ...] = messages(Control)

    @property
    def tensor(self) -> TensorConfig:
        """The tensor, as an input that no client sends."""
        data_type = self.control[0].tensor_type if self.control else "TYPE_INVALID"
        return TensorConfig(self.name, data_type, dims=(1,))


@dataclass(frozen=True, slots=True)
class SequenceBatching(Message):
    """How the requests of a sequence are scheduled."""

    control_input: tuple[ControlInput, ...] = messages(ControlInput)
    oldest: Batching | None = message(Batching)


@dataclass(frozen=True, slots=True)
class EnsembleStep(Message):
    """A model that an ensemble asks; version -1 is the latest."""

    model_name: str = entry(str, "")
    model_version: int = entry(int, -1)


@dataclass(frozen=True, slots=True)
class EnsembleScheduling(Message):
    """What an ensemble consists of."""

    step: tuple[EnsembleStep, ...] = messages(EnsembleStep)


@dataclass(frozen=True, slots=True)
class WarmupInput(Message):
    """An input of a warm-up request, as a client would send it but without the batch.

    Attributes:
        input_data_file: of the folder ``warmup``; empty for zeros or random numbers.
    """

    data_type: str = entry(str, "TYPE_INVALID")
    dims: ConfigDims = integers()
    input_data_file: str = entry(str, "")


def _warmup_inputs(json: Mapping[str, Any]) -> Mapping[str, WarmupInput]:
    return {name: WarmupInput.read(value) for name, value in json.items()}


@dataclass(frozen=True, slots=True)
class ModelWarmup(Message):
    """A request that runs before the model is ready."""

    name: str = entry(str, "")
    batch_size: int = entry(int, 0)
    inputs: Mapping[str, WarmupInput] = entry(
        _warmup_inputs, {}, lambda inputs: {name: value.to_json() for name, value in inputs.items()}
    )


def _parameters(json: Mapping[str, Any]) -> Mapping[str, str]:
    return {key: str(value.get("string_value", "")) for key, value in json.items()}


@dataclass(frozen=True, slots=True)
class ModelConfig(Message):
    """The configuration of a model.

    Attributes:
        parameters: the text of each.
    """

    name: str = entry(str, "")
    platform: str = entry(str, "")
    backend: str = entry(str, "")
    version_policy: VersionPolicy | None = message(VersionPolicy)
    max_batch_size: int = entry(int, 0)
    input: tuple[TensorConfig, ...] = messages(TensorConfig)
    output: tuple[TensorConfig, ...] = messages(TensorConfig)
    instance_group: tuple[InstanceGroup, ...] = messages(InstanceGroup)
    dynamic_batching: Batching | None = message(Batching)
    sequence_batching: SequenceBatching | None = message(SequenceBatching)
    ensemble_scheduling: EnsembleScheduling | None = message(EnsembleScheduling)
    model_warmup: tuple[ModelWarmup, ...] = messages(ModelWarmup)
    parameters: Mapping[str, str] = entry(
        _parameters, {}, lambda texts: {key: {"string_value": text} for key, text in texts.items()}
    )

    @property
    def batched(self) -> bool:
        """The first dim of every tensor is a batch that ``dims`` leave out."""
        return self.max_batch_size > 0

    @property
    def controls(self) -> tuple[TensorConfig, ...]:
        """The tensors that Triton adds to the requests of a sequence, except those that clients send."""
        sent = {tensor.name for tensor in self.input}
        batching = self.sequence_batching
        tensors = (control.tensor for control in batching.control_input) if batching else ()
        return tuple(tensor for tensor in tensors if tensor.name not in sent)

    @property
    def instances(self) -> int:
        """How many instances there are."""
        return max(1, sum(group.count or 1 for group in self.instance_group))

    @property
    def needs_resources(self) -> bool:
        """Instances need a resource of Triton's rate limiter, which takes it back when a request's call returns."""
        return any(group.rate_limiter and group.rate_limiter.resources for group in self.instance_group)

    @property
    def preferred_batch_size(self) -> tuple[int, ...]:
        """The numbers of rows that requests are preferably gathered to."""
        batching = self.dynamic_batching or (self.sequence_batching and self.sequence_batching.oldest)
        return batching.preferred_batch_size if batching else ()
