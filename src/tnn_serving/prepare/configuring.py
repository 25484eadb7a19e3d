"""What a configuration and a network make together: tensors, shapes to expect, and how the cores are divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tnn_serving.analysis import Analysis
from tnn_serving.config.model_config import Binding, bind_inputs, check_outputs, complete
from tnn_serving.config.plan import Plan, instances, plan
from tnn_serving.config.settings import Settings
from tnn_serving.engines import TensorSpec
from tnn_serving.engines.cpu import available_cores
from tnn_serving.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration that fits a network.

    Attributes:
        config: Triton's configuration, completed.
        settings: our parameters in it.
        bindings: how each input of the configuration feeds the network.
        plan: how inferences share the cores.
        outputs: blobs that are served.
        typical: the shapes to measure at and to warm: those of the configuration, as far as it declares any.
    """

    config: Mapping[str, Any]
    settings: Settings
    bindings: Mapping[str, Binding]
    plan: Plan
    outputs: tuple[str, ...]
    typical: Mapping[str, tuple[int, ...]]


def configure(
    name: str, analysis: Analysis, config: Mapping[str, Any], settings: Settings, *, completes: bool
) -> Configured:
    """Completes a configuration, and compares it with the network.

    Args:
        name: of the model, for the log.
        config: Triton's configuration with the parameters of the server's command line.
        completes: fill in what is left out.

    Raises:
        ConfigError: configuration and network disagree.
    """
    inputs = [TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.inputs]
    blobs = {blob.name: TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.blobs}
    done = _completed(config, analysis, inputs, blobs) if completes else dict(config)
    if not done.get("input") and inputs:
        raise ConfigError("config.pbtxt has no inputs", hint="allow Triton to complete configurations")
    bindings = bind_inputs(done, inputs, settings)
    missing = [spec.name for spec in inputs if spec.name not in bindings and spec.name not in analysis.optional]
    if missing:
        raise ConfigError(f"config.pbtxt lacks input `{missing[0]}`", hint="add it, or leave the section out")
    check_outputs(done, blobs)
    _warn_of_bare_pixels(name, settings)
    planned = plan(
        available_cores(),
        instances=instances(done),
        threads=settings.threads,
        streams=settings.streams,
        hint=settings.hint,
    )
    outputs = tuple(str(item["name"]) for item in done["output"])
    return Configured(done, settings, bindings, planned, outputs, _typical_shapes(bindings, settings, analysis))


def _completed(
    config: Mapping[str, Any], analysis: Analysis, inputs: Sequence[TensorSpec], blobs: Mapping[str, TensorSpec]
) -> dict[str, Any]:
    # Any blob may be named as an output, and what is left out of it filled in.
    outputs = list(blobs.values()) if config.get("output") else [blobs[name] for name in analysis.outputs]
    return complete(config, inputs=inputs, outputs=outputs, optional=analysis.optional)


def _typical_shapes(
    bindings: Mapping[str, Binding], settings: Settings, analysis: Analysis
) -> dict[str, tuple[int, ...]]:
    found = {}
    for blob in analysis.inputs:
        shape = [dim or 1 for dim in blob.dims]
        binding = bindings.get(blob.name)
        if binding is None:
            continue
        if binding.kind != "encoded":
            declared = [*(-1,) * (len(shape) - len(binding.dims)), *binding.dims]
            shape = [size if dim < 0 else dim for dim, size in zip(declared, shape, strict=True)]
        picture = settings.pictures.get(blob.name)
        if picture is not None and picture.fit.size is not None:
            shape[1:3] = picture.fit.size
        found[blob.name] = tuple(shape)
    return found


def _warn_of_bare_pixels(name: str, settings: Settings) -> None:
    """Networks that want pixels as they are exist, but a missing scale is the likelier reason."""
    for key, picture in settings.pictures.items():
        if picture.scale == (1.0,) and picture.bias == (0.0,):
            log.warning("%s: no `scale` and `bias` for picture input `%s`: the network gets pixels 0 to 255", name, key)
