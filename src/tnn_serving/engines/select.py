"""Which engine runs a network."""

from __future__ import annotations

from tnn_serving.engines.base import Engine
from tnn_serving.engines.onnxruntime import OnnxRuntime
from tnn_serving.engines.openvino import OpenVINO
from tnn_serving.errors import ConfigError

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (OpenVINO(), OnnxRuntime())}
"""All engines by name; ``auto`` tries them in this order."""

AUTO = "auto"


def engine_named(name: str) -> list[Engine]:
    """The engines to try for a name, best first: one of that name, or all of them for ``auto``.

    Raises ConfigError for an unknown name.
    """
    if name == AUTO:
        return list(ENGINES.values())
    if name not in ENGINES:
        raise ConfigError("unknown engine", expected=f"auto, {', '.join(ENGINES)}", found=name)
    return [ENGINES[name]]
