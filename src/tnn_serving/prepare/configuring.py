"""What a configuration and a network make together: tensors, shapes to expect, and how the cores are divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tnn_serving.analysis import Analysis
from tnn_serving.config.binding import Binding, bind_inputs, check_outputs
from tnn_serving.config.completion import complete
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.plan import Plan, plan
from tnn_serving.config.settings import ModelSettings
from tnn_serving.engines import TensorSpec
from tnn_serving.engines.cpu import available_cores
from tnn_serving.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration that fits a network.

    Attributes:
        config: Triton's configuration, completed.
        settings: the parameters in it and on the server's command line.
        bindings: how each input of the configuration feeds the network.
        plan: how inferences share the cores.
        outputs: blobs that are served.
        typical: the shapes to measure at and to warm: those of the configuration, as far as it declares any.
    """

    config: ModelConfig
    settings: ModelSettings
    bindings: Mapping[str, Binding]
    plan: Plan
    outputs: tuple[str, ...]
    typical: Mapping[str, tuple[int, ...]]


def configure(
    name: str, analysis: Analysis, config: ModelConfig, settings: ModelSettings, *, completes: bool
) -> Configured:
    """Completes a configuration, and compares it with the network.

    Args:
        name: of the model, for the log.
        config: Triton's configuration.
        completes: fill in what is left out.

    Raises:
        ConfigError: configuration and network disagree.
    """
    inputs = [TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.inputs]
    blobs = {blob.name: TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.blobs}
    done = _completed(config, analysis, inputs, blobs) if completes else config
    if not done.input and inputs:
        raise ConfigError("config.pbtxt has no inputs", hint="allow Triton to complete configurations")
    bindings = bind_inputs(done, inputs, settings)
    missing = [spec.name for spec in inputs if spec.name not in bindings and spec.name not in analysis.optional]
    if missing:
        raise ConfigError(f"config.pbtxt lacks input `{missing[0]}`", hint="add it, or leave the section out")
    check_outputs(done, blobs)
    _warn_of_bare_pixels(name, config, settings)
    planned = plan(
        available_cores(),
        instances=done.instances,
        threads=settings.threads,
        streams=settings.streams,
        hint=settings.hint,
    )
    outputs = tuple(tensor.name for tensor in done.output)
    return Configured(done, settings, bindings, planned, outputs, _typical_shapes(bindings, settings, analysis))


def _completed(
    config: ModelConfig, analysis: Analysis, inputs: Sequence[TensorSpec], blobs: Mapping[str, TensorSpec]
) -> ModelConfig:
    # Any blob may be named as an output, and what is left out of it filled in.
    outputs = list(blobs.values()) if config.output else [blobs[name] for name in analysis.outputs]
    return complete(config, inputs=inputs, outputs=outputs, optional=analysis.optional)


def _typical_shapes(
    bindings: Mapping[str, Binding], settings: ModelSettings, analysis: Analysis
) -> dict[str, tuple[int, ...]]:
    found = {}
    for blob in analysis.inputs:
        shape = [dim or 1 for dim in blob.dims]
        binding = bindings.get(blob.name)
        if binding is None:
            continue
        if binding.kind != "encoded" and not binding.scalar:
            declared = [*(-1,) * (len(shape) - len(binding.shape)), *binding.shape]
            shape = [size if dim < 0 else dim for dim, size in zip(declared, shape, strict=True)]
        picture = settings.picture(blob.name)
        if picture is not None and picture.fit.size is not None:
            shape[1:3] = picture.fit.size
        found[blob.name] = tuple(shape)
    return found


def _warn_of_bare_pixels(name: str, config: ModelConfig, settings: ModelSettings) -> None:
    """Networks that want pixels as they are exist, but a missing scale is the likelier reason, unless it is written."""
    for key, picture in settings.pictures:
        written = any(own in config.parameters for base in ("scale", "bias") for own in (base, f"{key}.{base}"))
        if not written and picture.scale == (1.0,) and picture.bias == (0.0,):
            log.warning("%s: no `scale` and `bias` for picture input `%s`: the network gets pixels 0 to 255", name, key)
