"""From an ONNX model to a compiled OpenVINO network."""

from __future__ import annotations

import onnx
import openvino as ov

from tnn_serving.engines.base import Options
from tnn_serving.engines.openvino import passes
from tnn_serving.engines.openvino.errors import reason
from tnn_serving.engines.openvino.executable import OpenVINONetwork
from tnn_serving.engines.openvino.numbers import check_numbers
from tnn_serving.engines.openvino.plugin import compile_network, core, properties_of
from tnn_serving.engines.openvino.refusals import check_operators
from tnn_serving.engines.store import FileStore
from tnn_serving.errors import EngineError


def compile(model: onnx.ModelProto, options: Options) -> OpenVINONetwork:
    """Compiles an ONNX model. Raises EngineError if OpenVINO cannot, or would compute something else."""
    check_operators(model)
    serialized = model.SerializeToString()
    try:
        network = _read(model, serialized)
        check_numbers(network)
        passes.apply(network, options)
    except RuntimeError as error:
        raise EngineError("OpenVINO cannot read the network", found=reason(error)) from error
    properties = properties_of(network, options)
    return OpenVINONetwork(
        network,
        properties,
        [value.name for value in model.graph.input],
        [value.name for value in model.graph.output],
        compile_network(network, properties, FileStore(options.cache_dir), serialized),
    )


def _read(model: onnx.ModelProto, serialized: bytes) -> ov.Model:
    """The network, whose inputs have the names that the model gives them.

    The importer leaves out operators such as Dropout, and gives what they read the name of what they make. Where that
    is an input, it is read once more with an operator between.
    """
    network: ov.Model = core().read_model(serialized)
    inputs = {value.name for value in model.graph.input}
    if all(port.names & inputs for port in network.inputs):
        return network
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    given = {f"{name}/input": name for name in inputs - {item.name for item in model.graph.initializer}}
    for value in apart.graph.input:
        if f"{value.name}/input" in given:
            apart.graph.node.insert(0, onnx.helper.make_node("Identity", [f"{value.name}/input"], [value.name]))
            value.name = f"{value.name}/input"
    network = core().read_model(apart.SerializeToString())
    for port in network.inputs:
        (name,) = port.names & given.keys()
        for reader in port.get_node().output(0).get_target_inputs():
            reader.get_node().output(0).get_tensor().set_names(set())
        port.get_node().set_friendly_name(given[name])
        port.get_tensor().set_names({given[name]})
    return network
