"""Which tensors of a configuration are which of the network, and where the two disagree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tnn_serving.config.completion import SCALAR
from tnn_serving.config.datatypes import triton_type
from tnn_serving.config.model_config import CONFIG_FILE, ConfigDims, ModelConfig, TensorConfig, config_type
from tnn_serving.config.reshape import check_reshape, has_shape
from tnn_serving.config.settings import ModelSettings
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import ConfigError, located
from tnn_serving.nearest import did_you_mean, listed
from tnn_serving.pictures.fit import Fit

Kind = Literal["tensor", "pixels", "encoded"]


@dataclass(frozen=True, slots=True)
class Binding:
    """How one input of the configuration feeds the network.

    Attributes:
        datatype: of requests, by Triton's name.
        shape: that the backend gets: after ``reshape``, without the batch; -1 where free.
        kind: numbers, pixels of pictures, or picture files.
        scalar: the backend gets a last dim of 1 that the network's tensor does not have.
    """

    name: str
    datatype: str
    shape: ConfigDims
    kind: Kind
    scalar: bool = False


def bind_inputs(config: ModelConfig, inputs: Sequence[TensorSpec], settings: ModelSettings) -> dict[str, Binding]:
    """Pairs the configuration's inputs with the network's, and those that Triton adds to the requests of a sequence.

    Args:
        inputs: of the network, batch dim included; picture inputs as uint8 [N, H, W, C].

    Raises:
        ConfigError: a name, type or shape on which configuration and network disagree; both sides are named.
    """
    network = {spec.name: spec for spec in inputs}
    bound = {tensor.name: bind_input(tensor, network, settings, batched=config.batched) for tensor in config.input}
    added = [tensor for tensor in config.controls if tensor.name in network]
    return {**bound, **{tensor.name: bind_control(tensor, network, batched=config.batched) for tensor in added}}


def bind_input(
    tensor: TensorConfig, network: Mapping[str, TensorSpec], settings: ModelSettings, *, batched: bool
) -> Binding:
    """Pairs one input with the network's. Raises ConfigError as :func:`bind_inputs`."""
    name = tensor.name
    with located(f"{CONFIG_FILE}, input `{name}`"):
        spec = network.get(name)
        if spec is None:
            raise ConfigError(
                "the network has no such input", expected=listed(network), found=name, hint=did_you_mean(name, network)
            )
        if tensor.is_shape_tensor:
            raise ConfigError("is_shape_tensor is for TensorRT")
        check_reshape(tensor, batched=batched)
        picture = settings.picture(name)
        if picture is None:
            kind: Kind = "tensor"
        else:
            kind = "encoded" if tensor.datatype == "BYTES" else "pixels"
            spec = _request_spec(spec, kind, picture.fit)
            _check_border(picture.border, spec)
        if kind == "encoded":
            if tensor.shape not in (SCALAR, (-1,), ()):
                raise ConfigError(
                    "encoded pictures come one per element", expected="dims: [ 1 ]", found=list(tensor.shape)
                )
            return Binding(name, tensor.datatype, tensor.shape, kind)
        _check_type(tensor, spec)
        scalar = not batched and spec.shape == () and tensor.shape == SCALAR
        if not scalar:
            _check_shape(tensor, spec, kind, batched)
        return Binding(name, tensor.datatype, tensor.shape, kind, scalar)


def bind_control(tensor: TensorConfig, network: Mapping[str, TensorSpec], *, batched: bool) -> Binding:
    """Pairs a tensor that Triton adds to the requests of a sequence with the network's input: [1] per row, or a scalar.

    Raises:
        ConfigError: the network's input has another type or shape.
    """
    spec = network[tensor.name]
    with located(f"{CONFIG_FILE}, control_input `{tensor.name}`"):
        _check_type(tensor, spec)
        scalar = len(spec.shape) == batched
        if not scalar:
            _check_shape(tensor, spec, "tensor", batched)
        return Binding(tensor.name, tensor.datatype, tensor.shape, "tensor", scalar)


def _request_spec(spec: TensorSpec, kind: Kind, fit: Fit) -> TensorSpec:
    """What requests may send for a picture input [N, H, W, C]: any size, if pictures are resized.

    Raises:
        ConfigError: they are resized to another size than the network's, or encoded pictures have no such channels.
    """
    batch, height, width, channels = spec.shape
    if kind == "encoded" and channels not in (1, 3, 4):
        raise ConfigError("encoded pictures have 1, 3 or 4 channels", expected=f"TYPE_UINT8 for {channels} channels")
    if fit.size is None:
        return spec
    if any(want not in (None, have) for want, have in zip((height, width), fit.size, strict=True)):
        raise ConfigError(
            f"`{'crop' if fit.crop else 'resize'}` is not the size that the network takes",
            expected=f"{height},{width}".replace("None", "any"),
            found=f"{fit.size[0]},{fit.size[1]}",
        )
    return replace(spec, shape=(batch, None, None, channels))


def _check_border(border: tuple[int, ...], spec: TensorSpec) -> None:
    channels = spec.shape[-1]
    if len(border) not in (1, channels):
        raise ConfigError("`border` does not fit the network", expected=f"1 or {channels} numbers", found=len(border))


def _check_type(tensor: TensorConfig, spec: TensorSpec) -> None:
    wanted = config_type(triton_type(spec.dtype))
    if tensor.data_type != wanted:
        raise ConfigError("data type differs from the network's", expected=wanted, found=tensor.data_type)


def _check_shape(tensor: TensorConfig, spec: TensorSpec, kind: Kind, batched: bool) -> None:
    if batched and not spec.shape:
        raise ConfigError("the network takes a scalar, which has no batch", expected="max_batch_size: 0")
    one_picture = kind == "pixels" and len(tensor.shape) == len(spec.shape) - 1
    wanted = spec.shape[1:] if batched or one_picture else spec.shape
    if not has_shape(wanted, tensor.shape):
        raise ConfigError(
            f"{'dims do' if tensor.reshape is None else '`reshape` does'} not fit the network"
            + (" (the batch is not part of dims)" if batched else ""),
            expected=[-1 if dim is None else dim for dim in wanted],
            found=list(tensor.shape),
            hint="reshape { shape: [ ] }" if not wanted and tensor.dims == SCALAR else None,
        )


def check_outputs(config: ModelConfig, blobs: Mapping[str, TensorSpec]) -> None:
    """Compares the configuration's outputs with the blobs of the network that they name.

    Raises:
        ConfigError: another type, or dims that cannot hold the blob's elements.
    """
    for tensor in config.output:
        check_output(tensor, blobs, batched=config.batched)


def check_output(tensor: TensorConfig, blobs: Mapping[str, TensorSpec], *, batched: bool) -> None:
    """Compares one output with the blob that it names.

    Without ``reshape``, dims may be written without the batch, or flattened: the answer always has the blob's own
    shape. With ``reshape``, that is the blob's shape.

    Raises:
        ConfigError: as :func:`check_outputs`.
    """
    with located(f"{CONFIG_FILE}, output `{tensor.name}`"):
        spec = blobs.get(tensor.name)
        if spec is None:
            raise ConfigError(
                "the network has no such blob",
                expected="a blob that a layer produces",
                found=tensor.name,
                hint=did_you_mean(tensor.name, blobs),
            )
        if tensor.is_shape_tensor:
            raise ConfigError("is_shape_tensor is for TensorRT")
        check_reshape(tensor, batched=batched)
        _check_type(tensor, spec)
        if tensor.reshape is None:
            _check_elements(tensor.dims, spec)
        elif (batched and not spec.shape) or not has_shape(spec.shape[1 if batched else 0 :], tensor.reshape):
            raise ConfigError(
                "`reshape` does not fit the network" + (" (the batch is not part of it)" if batched else ""),
                expected=[-1 if dim is None else dim for dim in spec.shape[1 if batched else 0 :]],
                found=list(tensor.reshape),
            )


def _check_elements(dims: ConfigDims, spec: TensorSpec) -> None:
    known = [dim for dim in spec.shape if dim is not None]
    free = len(known) < len(spec.shape)
    if -1 not in dims and not free and math.prod(dims) != math.prod(known):
        raise ConfigError("dims do not fit the network", expected=known, found=list(dims))
