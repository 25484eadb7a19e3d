"""Compiling a configured network, or sharing what was compiled for equal files and settings."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

from tnn_serving.analysis import Analysis
from tnn_serving.config.readers import NamedShapes
from tnn_serving.config.settings import ModelSettings
from tnn_serving.engines import Options
from tnn_serving.model import Model
from tnn_serving.network.base import Network
from tnn_serving.prepare.configuring import Configured
from tnn_serving.prepare.shared import SHARED
from tnn_serving.prepare.warming import warm
from tnn_serving.translate.graph import Translation


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """What a network is compiled for. A model is made from its network and this alone, so that models can be shared
    where both are equal.

    Attributes:
        settings: those that decide a model; the others have their defaults.
        options: of the engine.
        outputs: blobs that are served.
        typical: shapes to measure at and to compile for.
    """

    settings: ModelSettings
    options: Options
    outputs: tuple[str, ...]
    typical: NamedShapes

    @classmethod
    def of(cls, configured: Configured) -> CompileRequest:
        """What a configuration asks for."""
        settings, plan = configured.settings, configured.plan
        options = Options(plan.threads, plan.streams, concurrent=plan.concurrent, cache_dir=settings.cache_dir)
        typical = tuple(sorted(configured.typical.items()))
        return cls(settings.of_model(), options, configured.outputs, typical)

    def key(self, analysis: Analysis) -> Hashable:
        """What models are equal in that are compiled for this."""
        return analysis.fingerprint, analysis.obstacle is None, self

    def model(self, network: Network, analysis: Analysis, translation: Translation, *, exports: bool = False) -> Model:
        """The compiled model. Raises EngineError if no engine takes the network."""
        return Model(
            network,
            analysis,
            translation,
            engine=self.settings.engine,
            options=self.options,
            outputs=self.outputs,
            precision=self.settings.precision,
            int8=self.settings.int8,
            shapes=self.settings.shape_limits,
            typical=dict(self.typical),
            facts=self.settings.facts(),
            exports=exports,
        )


def compile_model(
    network: Network, analysis: Analysis, translation: Translation, configured: Configured, *, exports: bool = False
) -> Model:
    """The network on the engine that suits it, compiled for the shapes that the configuration declares.

    Args:
        exports: the model is going to be exported, and is not shared with others.

    Raises:
        EngineError: no engine takes the network.
        ConfigError: declared shapes do not fit the network.
    """
    request = CompileRequest.of(configured)
    make = partial(request.model, network, analysis, translation, exports=exports)
    model = make() if exports else SHARED.get(request.key(analysis), make)
    warm(model, configured)
    return model
