"""From an exported OpenVINO network to an executable, without ONNX and without compiling."""

from __future__ import annotations

import openvino as ov

from tnn_serving.engines.openvino import exported as form
from tnn_serving.engines.openvino.errors import reason
from tnn_serving.engines.openvino.executable import OpenVINOExecutable
from tnn_serving.engines.openvino.plugin import core
from tnn_serving.errors import EngineError


def restore(exported: bytes) -> OpenVINOExecutable:
    """The executable that was exported.

    Raises EngineError for anything that this version of OpenVINO has not exported.
    """

    def imported() -> ov.CompiledModel:
        try:
            return core().import_model(bytes(blob), "CPU", dict(facts.properties))
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot open the compiled network", found=reason(error)) from error

    try:
        facts, blob = form.read(exported)
    except ValueError as error:
        raise EngineError("not a compiled network of OpenVINO", found=error) from error
    return OpenVINOExecutable(imported(), facts.inputs, facts.outputs, facts.limits, facts.properties, imported)
