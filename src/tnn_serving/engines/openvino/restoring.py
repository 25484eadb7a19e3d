"""From an exported OpenVINO network to an executable, without ONNX and without compiling."""

from __future__ import annotations

from collections.abc import Callable

import openvino as ov

from tnn_serving.engines.openvino import exported as form
from tnn_serving.engines.openvino.errors import reason
from tnn_serving.engines.openvino.executable import OpenVINOExecutable
from tnn_serving.engines.openvino.plugin import core
from tnn_serving.errors import EngineError


def restore_network(exported: Callable[[], bytes]) -> OpenVINOExecutable:
    """The executable that was exported.

    Raises EngineError for anything that this version of OpenVINO has not exported.
    """
    compiled, facts = _imported(exported)
    return OpenVINOExecutable(
        compiled, facts.inputs, facts.outputs, facts.limits, facts.properties, lambda: _imported(exported)[0]
    )


def _imported(exported: Callable[[], bytes]) -> tuple[ov.CompiledModel, form.Facts]:
    try:
        facts, blob = form.read_exported(exported())
        return core().import_model(blob, "CPU", facts.properties), facts
    except ValueError as error:
        raise EngineError("not a compiled network of OpenVINO", found=error) from error
    except RuntimeError as error:
        raise EngineError("OpenVINO cannot open the compiled network", found=reason(error)) from error
