"""The bytes of a request: the same tensors for HTTP or gRPC, in the request or in shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tnn_serving.client.connection import Address, ModelInfo
from tnn_serving.client.load.http import request_bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a registered region of shared memory."""

    region: str
    offset_bytes: int
    size_bytes: int

    def parameters(self) -> dict[str, str | int]:
        """Triton's parameters of a tensor that lies there."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_offset": self.offset_bytes,
            "shared_memory_byte_size": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class Places:
    """The inputs and outputs that lie in shared memory, by name; the others travel with request and answer."""

    inputs: Mapping[str, Place] = field(default_factory=dict)
    outputs: Mapping[str, Place] = field(default_factory=dict)


INLINE = Places()


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input as it is sent: Triton's type, dims, and raw bytes in Triton's layout."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes


def tensors(model: ModelInfo, inputs: Mapping[str, np.ndarray]) -> list[Tensor]:
    """The inputs with their bytes."""
    types = {item.name: item.datatype for item in model.inputs}
    return [Tensor(name, types[name], array.shape, raw(array)) for name, array in inputs.items()]


def raw(array: np.ndarray) -> bytes:
    """An array's bytes as Triton lays them out."""
    if array.dtype.kind != "O":
        return array.tobytes()
    from tritonclient.utils import serialize_byte_tensor

    return bytes(serialize_byte_tensor(array).item()) if array.size else b""


def http_request(address: Address, model: ModelInfo, sent: Sequence[Tensor], places: Places) -> bytes:
    """A whole HTTP request. Tensors that have a place, inputs or outputs, are not in it or its answer."""
    inputs: list[dict[str, Any]] = []
    for tensor in sent:
        parameters = (
            places.inputs[tensor.name].parameters()
            if tensor.name in places.inputs
            else {"binary_data_size": len(tensor.content)}
        )
        inputs.append(
            {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": parameters}
        )
    outputs = [
        {
            "name": item.name,
            "parameters": (
                places.outputs[item.name].parameters() if item.name in places.outputs else {"binary_data": True}
            ),
        }
        for item in model.outputs
    ]
    binary = [tensor.content for tensor in sent if tensor.name not in places.inputs]
    return request_bytes(address, model.name, {"inputs": inputs, "outputs": outputs}, binary)


def grpc_request(model: ModelInfo, sent: Sequence[Tensor], places: Places) -> bytes:
    """A serialised ``ModelInferRequest``, likewise."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model.name)
    for tensor in sent:
        entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.name in places.inputs:
            _set_parameters(entry, places.inputs[tensor.name])
        else:
            request.raw_input_contents.append(tensor.content)
    for item in model.outputs:
        entry = request.outputs.add(name=item.name)
        if item.name in places.outputs:
            _set_parameters(entry, places.outputs[item.name])
    return bytes(request.SerializeToString())


def _set_parameters(entry: Any, place: Place) -> None:
    for key, value in place.parameters().items():
        if isinstance(value, str):
            entry.parameters[key].string_param = value
        else:
            entry.parameters[key].int64_param = value
