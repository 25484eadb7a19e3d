"""From a model folder and Triton's configuration to a network that is compiled, measured and warm."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tnn_serving.config.model_config import CONFIG_FILE, Binding, bind_inputs, check_outputs, complete, top_level_fields
from tnn_serving.config.parameters import check_operators, read_parameter, text_of, with_defaults
from tnn_serving.config.plan import Plan, instances, plan
from tnn_serving.config.settings import Settings, limits_of, read_settings
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines import Options, TensorSpec
from tnn_serving.engines.choices import Choices
from tnn_serving.engines.cpu import available_cores
from tnn_serving.errors import ConfigError, RequestError, TnnError
from tnn_serving.formats.tnn import read_model
from tnn_serving.formats.tnn.files import model_files, onnx_file, unchanged
from tnn_serving.model import Model
from tnn_serving.network.base import Border, Network
from tnn_serving.network.onnx import read_onnx
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.prepare.batching import COMPLETED_BATCH_SIZE, check_rows, paying_rows
from tnn_serving.prepare.manifest import check_manifest
from tnn_serving.prepare.recorded_case import RECORDED, check_recorded
from tnn_serving.prepare.shared import SHARED

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to serve.

    Attributes:
        config: Triton's configuration, completed.
        joined_rows: how many rows of several requests run as one inference; 1 for none.
        seconds: of one inference of one row.
    """

    model: Model
    settings: Settings
    config: dict[str, Any]
    plan: Plan
    joined_rows: int
    seconds: float


def load_model(
    name: str,
    folder: Path,
    config: Mapping[str, Any],
    *,
    version: int,
    completes: bool = True,
    options: Mapping[str, str] | None = None,
) -> Loaded:
    """Loads ``folder/<version>``; see :meth:`tnn_serving.serving.servable.Servable.open`."""
    check_operators(config)
    merged = with_defaults(config, options or {})
    required = read_parameter("require_manifest", text_of(merged, "require_manifest"))
    check_manifest(folder, version=version, required=required)
    loaded = _loaded(name, folder, config, merged, version=version, completes=completes)
    network = loaded.model.network
    network.limits = replace(network.limits, deadline_s=math.inf)  # requests have no part in the time for loading
    check_recorded(loaded.model, folder / str(version) / RECORDED, loaded.settings.check_tolerance)
    return loaded


def _loaded(
    name: str,
    folder: Path,
    config: Mapping[str, Any],
    merged: Mapping[str, Any],
    *,
    version: int,
    completes: bool,
) -> Loaded:
    network = open_network(folder / str(version), limits_of(merged))
    batched, dependence = _for_batches(network, [str(item["name"]) for item in config.get("output", [])])
    if completes and _leaves_batching_to_us(folder, config) and dependence is None:
        wanted = {**merged, "max_batch_size": COMPLETED_BATCH_SIZE}
        if not config.get("sequence_batching"):
            wanted.setdefault("dynamic_batching", {})
        loaded = _compiled(name, batched, wanted, completes=True)
        dependence = check_rows(loaded.model, _output_names(loaded.config))
        if dependence is None:
            return _measured(name, loaded)
    if dependence is not None:
        log.info("%s: requests are not joined: %s", name, dependence)
    takes_batches = int(merged.get("max_batch_size", 0)) > 1
    loaded = _compiled(name, batched if takes_batches and dependence is None else network, merged, completes=completes)
    if takes_batches and dependence is None:
        dependence = check_rows(loaded.model, _output_names(loaded.config))
        if dependence is None:
            return _measured(name, loaded)
        log.info("%s: requests are not joined: %s", name, dependence)
    return _measured(name, loaded, most_rows=1)


def open_network(folder: Path, limits: Limits = UNLIMITED) -> Network:
    """The network of a version folder, wholly in memory: its files may be replaced while it is served.

    Raises FormatError for a folder without a model, a broken one, and one that is written to meanwhile.
    """
    with unchanged(folder):
        file = onnx_file(folder)
        if file is not None:
            return read_onnx(file, limits)
        return TnnNetwork(read_model(*model_files(folder), mapped=False), limits)


def _for_batches(network: Network, outputs: Sequence[str]) -> tuple[Network, str | None]:
    """The network to serve batches with, and what speaks against that."""
    try:
        return network.batched(outputs or network.outputs)
    except TnnError as error:  # an output that is not there, for one; whoever compiles it will say so with more words
        return network, str(error)


def _compiled(name: str, network: Network, config: Mapping[str, Any], *, completes: bool) -> Loaded:
    settings = read_settings(config)
    border = network.border(settings.pictures, raw_int8=settings.raw_int8)
    inputs, blobs = _specs(border)
    filled = _completed(config, network, inputs, blobs) if completes else dict(config)
    if not filled.get("input") and inputs:
        raise ConfigError("config.pbtxt has no inputs", hint="allow Triton to complete configurations")
    bindings = bind_inputs(filled, inputs, settings)
    missing = [spec.name for spec in inputs if spec.name not in bindings and spec.name not in network.optional]
    if missing:
        raise ConfigError(f"config.pbtxt lacks input `{missing[0]}`", hint="add it, or leave the section out")
    check_outputs(filled, blobs)
    _warn_of_bare_pixels(name, settings)
    planned = plan(
        available_cores(),
        instances=instances(config),
        threads=settings.threads,
        streams=settings.streams,
        hint=settings.hint,
    )
    typical = _typical_shapes(bindings, settings, border)
    outputs = _output_names(filled)
    options = Options(planned.threads, planned.streams, elastic=planned.elastic, cache_dir=settings.cache_dir)

    def make() -> Model:
        return Model(
            network,
            settings.engine,
            options,
            outputs=outputs,
            precision=settings.precision,
            pictures=settings.pictures,
            int8=settings.int8,
            raw_int8=settings.raw_int8,
            shapes=settings.shapes,
            typical=typical,
        )

    key = (
        network.fingerprint(),
        settings.engine,
        options,
        outputs,
        settings.precision,
        repr(sorted(settings.pictures.items())),
        settings.int8,
        settings.raw_int8,
        settings.shapes,
        repr(sorted(typical.items())),
        settings.memory_limit_bytes,
    )
    model = SHARED.get(key, make)
    try:
        for shapes in settings.warm_shapes:
            model.warm(shapes)
        for rows in _declared_batches(filled):
            model.warm({name: (rows, *shape[1:]) for name, shape in model.sizes.items()})
    except RequestError as error:
        raise ConfigError(f"declared shapes do not fit the network: {error}") from error
    log.info("%s runs on %s (%s); %s", name, model.engine, model.choice.reason, planned.reason)
    return Loaded(model, settings, filled, planned, 1, 0.0)


def _measured(name: str, loaded: Loaded, most_rows: int | None = None) -> Loaded:
    """Finds out how long an inference takes, and how many rows together pay."""
    settings = loaded.settings
    limit = most_rows or int(loaded.config.get("max_batch_size", 1))
    pay = paying_rows(loaded.model, limit if settings.max_joined_rows is None else 1, Choices(settings.cache_dir))
    rows = min(limit, settings.max_joined_rows or pay.rows)
    if limit > 1:
        why = "asked for" if settings.max_joined_rows is not None else pay.reason
        log.info("%s: up to %d rows of waiting requests run as one inference (%s)", name, rows, why)
    return Loaded(loaded.model, settings, loaded.config, loaded.plan, rows, pay.seconds)


def _leaves_batching_to_us(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether nothing was said about batches: not by a number, and not by tensors with or without a batch dim, those
    of a warm-up included."""
    said = any(config.get(section) for section in ("input", "output", "model_warmup"))
    if said or int(config.get("max_batch_size", 0)) > 0:
        return False
    file = folder / CONFIG_FILE
    try:
        return "max_batch_size" not in top_level_fields(file.read_text("latin-1")) if file.is_file() else True
    except OSError:
        return False


def _specs(border: Border) -> tuple[list[TensorSpec], dict[str, TensorSpec]]:
    inputs = [TensorSpec(blob.name, blob.dtype, blob.known) for blob in border.inputs]
    return inputs, {name: TensorSpec(name, blob.dtype, blob.known) for name, blob in border.blobs.items()}


def _completed(
    config: Mapping[str, Any], network: Network, inputs: Sequence[TensorSpec], blobs: Mapping[str, TensorSpec]
) -> dict[str, Any]:
    # Any blob may be named as an output, and what is left out of it filled in.
    outputs = list(blobs.values()) if config.get("output") else [blobs[name] for name in network.outputs]
    return complete(config, inputs=inputs, outputs=outputs, optional=network.optional)


def _output_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(item["name"]) for item in config["output"])


def _typical_shapes(bindings: Mapping[str, Binding], settings: Settings, border: Border) -> dict[str, tuple[int, ...]]:
    """The shapes to measure at and to warm: those of the configuration, as far as it declares any."""
    found = {}
    for blob in border.inputs:
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


def _declared_batches(config: Mapping[str, Any]) -> list[int]:
    batching = config.get("dynamic_batching") or config.get("sequence_batching", {}).get("oldest") or {}
    return [int(rows) for rows in batching.get("preferred_batch_size", [])]


def _warn_of_bare_pixels(name: str, settings: Settings) -> None:
    """Networks that want pixels as they are exist, but a missing scale is the likelier reason."""
    for key, picture in settings.pictures.items():
        if picture.scale == (1.0,) and picture.bias == (0.0,):
            log.warning("%s: no `scale` and `bias` for picture input `%s`: the network gets pixels 0 to 255", name, key)
