"""Fills in what a configuration leaves out of the network's inputs and outputs. What is written stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tnn_serving.config.datatypes import triton_type
from tnn_serving.config.model_config import BACKEND, ModelConfig, TensorConfig, config_type
from tnn_serving.engines import TensorSpec

SCALAR = (1,)
"""Dims that show a scalar."""


def complete(
    config: ModelConfig,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    optional: Sequence[str],
) -> ModelConfig:
    """The configuration with the inputs and outputs, types and dims that it leaves out.

    A list of outputs is a choice, and stays as it is; a list of inputs that lacks some is completed, but for those that
    Triton adds to the requests of a sequence.

    Args:
        inputs, outputs: of the network as it runs, batch dim included; of ``outputs`` all that may be named.
        optional: inputs that have a stored value.

    Raises:
        UnsupportedLayer: a tensor has a type that Triton does not have.
    """
    named = {tensor.name for tensor in (*config.input, *config.controls)}
    added = [TensorConfig(spec.name, optional=spec.name in optional) for spec in inputs if spec.name not in named]
    served = config.output or tuple(TensorConfig(spec.name) for spec in outputs)
    return replace(
        config,
        backend=config.backend or BACKEND,
        input=_completed([*config.input, *added], inputs, batched=config.batched),
        output=_completed(served, outputs, batched=config.batched),
    )


def _completed(
    tensors: Sequence[TensorConfig], specs: Sequence[TensorSpec], *, batched: bool
) -> tuple[TensorConfig, ...]:
    known = {spec.name: spec for spec in specs}
    return tuple(complete_tensor(tensor, known.get(tensor.name), batched=batched) for tensor in tensors)


def complete_tensor(tensor: TensorConfig, spec: TensorSpec | None, *, batched: bool) -> TensorConfig:
    """An input or output with the type and dims of the network's tensor, where it has none of its own.

    Triton has no tensor without dims: a scalar has dims [1] in its place. Where that is a row of a batch, an empty
    ``reshape`` says so. Without a batch Triton refuses an empty ``reshape``, and [1] alone has this meaning.

    Args:
        spec: of the network, batch included; ``None`` if the network has no such tensor.

    Raises:
        UnsupportedLayer: Triton does not have the type.
    """
    if tensor.reshape == () and tensor.dims == SCALAR and not batched:
        tensor = replace(tensor, reshape=None)
    if spec is None:
        return tensor
    if not tensor.datatype:
        tensor = replace(tensor, data_type=config_type(triton_type(spec.dtype)))
    if tensor.dims:
        return tensor
    if tensor.datatype == "BYTES":
        return replace(tensor, dims=(1,))
    dims = tuple(-1 if dim is None else dim for dim in spec.shape[1 if batched else 0 :])
    if dims:
        return replace(tensor, dims=dims)
    return replace(tensor, dims=SCALAR, reshape=() if batched else tensor.reshape)
