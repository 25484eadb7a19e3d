"""The bytes of a request over HTTP or gRPC, with its tensors in the request or in shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tnn_serving.client.connection import Address, ModelInfo
from tnn_serving.client.load.http import request_bytes


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """A tensor's bytes in a registered region of shared memory."""

    region: str
    offset_bytes: int
    size_bytes: int

    def parameters(self) -> dict[str, str | int]:
        """Triton's parameters of a tensor in shared memory."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_offset": self.offset_bytes,
            "shared_memory_byte_size": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class RegionSlices:
    """The inputs and outputs in shared memory, by name; the others are in request and answer."""

    inputs: Mapping[str, RegionSlice] = field(default_factory=dict)
    outputs: Mapping[str, RegionSlice] = field(default_factory=dict)


INLINE = RegionSlices()


@dataclass(frozen=True, slots=True)
class RequestInput:
    """An input of a request: Triton's type, dims, and the bytes in Triton's layout."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes


def request_inputs(model: ModelInfo, inputs: Mapping[str, np.ndarray]) -> list[RequestInput]:
    """The inputs of a request."""
    types = {item.name: item.datatype for item in model.inputs}
    return [RequestInput(name, types[name], array.shape, raw(array)) for name, array in inputs.items()]


def raw(array: np.ndarray) -> bytes:
    """An array's bytes in Triton's layout."""
    if array.dtype.kind != "O":
        return array.tobytes()
    from tritonclient.utils import serialize_byte_tensor

    return bytes(serialize_byte_tensor(array).item()) if array.size else b""


def http_request(address: Address, model: ModelInfo, sent: Sequence[RequestInput], shared: RegionSlices) -> bytes:
    """A complete HTTP request. Inputs and outputs in ``shared`` are not in the request and its answer."""
    inputs: list[dict[str, Any]] = []
    for tensor in sent:
        parameters = (
            shared.inputs[tensor.name].parameters()
            if tensor.name in shared.inputs
            else {"binary_data_size": len(tensor.content)}
        )
        inputs.append(
            {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": parameters}
        )
    outputs = [
        {
            "name": item.name,
            "parameters": (
                shared.outputs[item.name].parameters() if item.name in shared.outputs else {"binary_data": True}
            ),
        }
        for item in model.outputs
    ]
    binary = [tensor.content for tensor in sent if tensor.name not in shared.inputs]
    return request_bytes(address, model.name, {"inputs": inputs, "outputs": outputs}, binary)


def grpc_request(model: ModelInfo, sent: Sequence[RequestInput], shared: RegionSlices) -> bytes:
    """A serialised ``ModelInferRequest``. Inputs and outputs in ``shared`` are not in the request and its answer."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model.name)
    for tensor in sent:
        entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.name in shared.inputs:
            _set_parameters(entry, shared.inputs[tensor.name])
        else:
            request.raw_input_contents.append(tensor.content)
    for item in model.outputs:
        entry = request.outputs.add(name=item.name)
        if item.name in shared.outputs:
            _set_parameters(entry, shared.outputs[item.name])
    return bytes(request.SerializeToString())


def _set_parameters(entry: Any, region: RegionSlice) -> None:
    for key, value in region.parameters().items():
        if isinstance(value, str):
            entry.parameters[key].string_param = value
        else:
            entry.parameters[key].int64_param = value
