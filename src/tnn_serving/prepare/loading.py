"""From a model folder and Triton's configuration to a model that is ready to serve.

A chain of values: read → analyse → configure → compile → measure → verify.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tnn_serving.config.model_config import Batching, ModelConfig
from tnn_serving.config.settings import ModelSettings
from tnn_serving.engines.measurements import Measurements
from tnn_serving.errors import TnnError
from tnn_serving.model import Model
from tnn_serving.network.analyse import analyse
from tnn_serving.network.base import Network
from tnn_serving.network.formats import open_network
from tnn_serving.prepare.batching import COMPLETED_BATCH_SIZE, BatchGain, check_rows, measure_rows
from tnn_serving.prepare.compiling import compile_model
from tnn_serving.prepare.configuring import Configured, configure
from tnn_serving.prepare.folder import check_folder, leaves_batching_to_us
from tnn_serving.prepare.loaded import Loaded
from tnn_serving.prepare.model_version import ModelVersion
from tnn_serving.prepare.recorded_case import RECORDED, check_recorded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedHere(Loaded):
    """A model that this process has read and compiled.

    Attributes:
        batched: batch sizes that are written down in the network were made free.
    """

    model: Model
    batched: bool


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A network to load with a configuration; ``joins`` where rows of requests are to be joined."""

    network: Network
    config: ModelConfig
    joins: bool


def load_model(version: ModelVersion) -> LoadedHere:
    """Loads a version in this process; see :meth:`tnn_serving.serving.servable.Servable.open`."""
    check_folder(version.folder, version.config, version.settings, version=version.number)
    ours = version.completes and leaves_batching_to_us(version.folder, version.config)
    return load_files(
        version.name, version.files, version.config, version.settings, completes=version.completes, ours=ours
    )


def load_files(
    name: str,
    files: Path,
    config: ModelConfig,
    settings: ModelSettings,
    *,
    completes: bool,
    ours: bool,
    exports: bool = False,
) -> LoadedHere:
    """Loads the files of a version.

    Args:
        name: of the model, for the log.
        files: the folder that they are in.
        completes: fill in what the configuration leaves out.
        ours: whether to serve batches is decided here.
        exports: the model is going to be exported.

    Raises as :meth:`tnn_serving.serving.servable.Servable.open`.
    """
    network = open_network(files, settings.limits())
    asked = config.max_batch_size > 1
    batched, obstacle = _for_batches(network, [tensor.name for tensor in config.output], asked=asked)
    attempts = _attempts(network, batched, config, joins=obstacle is None, ours=ours)
    for attempt in attempts:
        model, configured = _compiled(name, attempt, settings, obstacle, completes=completes, exports=exports)
        if attempt.joins:
            obstacle = check_rows(model, configured.outputs)
            if obstacle is None:
                break
            model.note_obstacle(obstacle)
    if obstacle is not None and asked and any(blob.known[:1] != (None,) for blob in model.analysis.inputs):
        text = "%s: max_batch_size is %d, but the network does not take another first dim: %s"
        log.warning(text, name, config.max_batch_size, obstacle)
    elif obstacle is not None:
        log.info("%s: requests are not joined: %s", name, obstacle)
    gain = _measured(name, model, configured, joins=attempt.joins and obstacle is None)
    check_recorded(model, files / RECORDED, settings.check_tolerance)
    return LoadedHere(model, configured, gain.rows, gain.seconds, attempt.network is not network)


def _for_batches(network: Network, outputs: Sequence[str], *, asked: bool) -> tuple[Network, str | None]:
    """The network to serve batches with, and what prevents them."""
    try:
        return network.batched(outputs or network.outputs, asked=asked)
    except TnnError as error:  # an unknown output, for one; comparing it with the configuration says more
        return network, str(error)


def _attempts(network: Network, batched: Network, config: ModelConfig, *, joins: bool, ours: bool) -> list[_Attempt]:
    """What to load, best first: with batches of our own choice, then as the configuration says."""
    takes_batches = joins and config.max_batch_size > 1
    as_configured = _Attempt(batched if takes_batches else network, config, takes_batches)
    if not (joins and ours):
        return [as_configured]
    wanted = replace(config, max_batch_size=COMPLETED_BATCH_SIZE)
    if config.sequence_batching is None:
        wanted = replace(wanted, dynamic_batching=config.dynamic_batching or Batching())
    return [_Attempt(batched, wanted, joins=True), as_configured]


def _compiled(
    name: str, attempt: _Attempt, settings: ModelSettings, obstacle: str | None, *, completes: bool, exports: bool
) -> tuple[Model, Configured]:
    analysis, translation = analyse(
        attempt.network,
        outputs=[tensor.name for tensor in attempt.config.output],
        pictures=settings.conversions,
        raw_int8=settings.raw_int8,
        obstacle=obstacle,
    )
    configured = configure(name, analysis, attempt.config, settings, completes=completes)
    model = compile_model(attempt.network, analysis, translation, configured, exports=exports)
    log.info("%s runs on %s (%s); %s", name, model.engine, model.choice.reason, configured.plan.reason)
    return model, configured


def _measured(name: str, model: Model, configured: Configured, *, joins: bool) -> BatchGain:
    """How long an inference takes, and how many rows to join."""
    settings = configured.settings
    limit = configured.config.max_batch_size if joins else 1
    asked = settings.max_joined_rows
    gain = measure_rows(model, limit if asked is None else 1, Measurements(settings.cache_dir))
    if asked is not None:
        gain = replace(gain, rows=min(limit, asked), reason="as configured")
    if limit > 1:
        log.info("%s: up to %d rows of waiting requests run as one inference (%s)", name, gain.rows, gain.reason)
    return gain
