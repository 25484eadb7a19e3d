"""Compiling a configured network, or sharing what was compiled for equal files and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tnn_serving.analysis import Analysis
from tnn_serving.engines import Options
from tnn_serving.errors import ConfigError, RequestError
from tnn_serving.model import Model
from tnn_serving.network.base import Network
from tnn_serving.prepare.configuring import Configured
from tnn_serving.prepare.shared import SHARED
from tnn_serving.translate.graph import Translation


def compile_model(network: Network, analysis: Analysis, translation: Translation, configured: Configured) -> Model:
    """The network on the engine that suits it, compiled for the shapes that the configuration declares.

    Raises:
        EngineError: no engine takes the network.
        ConfigError: declared shapes do not fit the network.
    """
    settings = configured.settings
    planned = configured.plan
    options = Options(planned.threads, planned.streams, elastic=planned.elastic, cache_dir=settings.cache_dir)

    def make() -> Model:
        return Model(
            network,
            analysis,
            translation,
            engine=settings.engine,
            options=options,
            outputs=configured.outputs,
            precision=settings.precision,
            int8=settings.int8,
            shapes=settings.shapes,
            typical=configured.typical,
        )

    key = (
        analysis.fingerprint,
        analysis.obstacle is None,
        settings.engine,
        options,
        configured.outputs,
        settings.precision,
        repr(sorted(settings.pictures.items())),
        settings.int8,
        settings.raw_int8,
        settings.shapes,
        repr(sorted(configured.typical.items())),
        settings.memory_limit_bytes,
    )
    model = SHARED.get(key, make)
    try:
        for shapes in settings.warm_shapes:
            model.warm(shapes)
        for rows in _declared_batches(configured.config):
            model.warm({name: (rows, *shape[1:]) for name, shape in model.sizes.items()})
    except RequestError as error:
        raise ConfigError(f"declared shapes do not fit the network: {error}") from error
    return model


def _declared_batches(config: Mapping[str, Any]) -> list[int]:
    batching = config.get("dynamic_batching") or config.get("sequence_batching", {}).get("oldest") or {}
    return [int(rows) for rows in batching.get("preferred_batch_size", [])]
