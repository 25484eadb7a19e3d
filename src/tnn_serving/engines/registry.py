"""The engines that there are: those of this package, those that other packages bring, and registered ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from tnn_serving.engines.base import Engine
from tnn_serving.errors import ConfigError, EngineError
from tnn_serving.nearest import did_you_mean

log = logging.getLogger(__name__)

GROUP = "tnn_serving.engines"
"""Entry points of this group are engines: the name is the engine's, the object a class without arguments."""

BUILT_IN = (
    EntryPoint("openvino", "tnn_serving.engines.openvino.engine:OpenVINO", GROUP),
    EntryPoint("onnxruntime", "tnn_serving.engines.onnxruntime.engine:OnnxRuntime", GROUP),
)
"""The first engine is taken where there is nothing to choose between them."""

AUTO = "auto"


class Registry(Mapping[str, Engine]):
    """Engines by name, the built-in ones first. Each is imported when it is first asked for.

    Args:
        built_in: engines that no other package can replace.
    """

    def __init__(self, built_in: Iterable[EntryPoint]) -> None:
        self._built_in = {point.name: point for point in built_in}
        self._known: dict[str, EntryPoint | Engine] | None = None
        self._lock = threading.RLock()

    def __getitem__(self, name: str) -> Engine:
        """Raises KeyError for an unknown name, EngineError for an engine that cannot be imported."""
        with self._lock:
            found = self._all()[name]
            if isinstance(found, EntryPoint):
                found = self._all()[name] = _loaded(found)
            return found

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of the engines of this package."""
        return tuple(self._built_in)

    def register(self, engine: Engine) -> None:
        """Adds an engine. Raises ConfigError if its name is taken."""
        with self._lock:
            if engine.name in (AUTO, *self._all()):
                raise ConfigError(f"there is an engine `{engine.name}` already")
            self._all()[engine.name] = engine

    def usable(self) -> list[Engine]:
        """All engines without those of other packages that cannot be imported, which are logged."""
        found = []
        for name in self:
            try:
                found.append(self[name])
            except EngineError as error:
                if name in self._built_in:
                    raise
                log.warning("%s", error)
        return found

    def named(self, name: str) -> list[Engine]:
        """The engines to try for a name: the one of that name, or all of them for ``auto``.

        Raises ConfigError for an unknown name, EngineError for an engine that cannot be imported.
        """
        if name == AUTO:
            return self.usable()
        if name not in self:
            known = (AUTO, *self)
            raise ConfigError("unknown engine", expected=", ".join(known), found=name, hint=did_you_mean(name, known))
        return [self[name]]

    def _all(self) -> dict[str, EntryPoint | Engine]:
        with self._lock:
            if self._known is None:
                self._known = {**self._built_in}
                for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
                    if point.name in (AUTO, *self._known):
                        log.warning("engine `%s` of %s is ignored: the name is taken", point.name, point.value)
                    else:
                        self._known[point.name] = point
            return self._known


def _loaded(point: EntryPoint) -> Engine:
    try:
        engine = point.load()()
    except Exception as error:  # whatever another package's code raises
        raise EngineError(f"engine `{point.name}` cannot be imported from {point.value}", found=error) from error
    if not isinstance(engine, Engine) or engine.name != point.name:
        raise EngineError(
            f"{point.value} is not the engine `{point.name}`",
            expected="a subclass of tnn_serving.engines.Engine with this name, that needs no arguments",
            found=repr(engine),
        )
    return engine


ENGINES = Registry(BUILT_IN)
"""The engines of this process."""


def register(engine: Engine) -> None:
    """Adds an engine to this process. Raises ConfigError if its name is taken."""
    ENGINES.register(engine)


def following_onnx(engines: Iterable[Engine]) -> Engine | None:
    """The first engine whose answers are what ONNX says."""
    return next((engine for engine in engines if engine.follows_onnx), None)
