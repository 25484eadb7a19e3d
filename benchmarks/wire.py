"""Binary inference requests for the servers: prebuilt for repeated use, and one request with its answer."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, shared_memory

import load

Protocol = Literal["raw", "http", "grpc"]
"""``raw``: the tensor's bytes as HTTP body, the network as path; ``http``, ``grpc``: KServe's protocol, version 2."""

TRITON: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
ANSWER_S = 20.0

Arrays = Mapping[str, np.ndarray]


class SharedMemory:
    """A region of system shared memory with one tensor, registered with a server of KServe's protocol."""

    def __init__(self, protocol: Protocol, target: str, name: str, array: np.ndarray) -> None:
        self.name = name
        self.bytes = array.nbytes
        self._client = TRITON[protocol].InferenceServerClient(target)
        key = f"/tnn-serving-benchmark-{os.getpid()}-{target.rpartition(':')[2]}-{name}"
        self._region = shared_memory.create_shared_memory_region(name, key, array.nbytes)
        shared_memory.set_shared_memory_region(self._region, [array])
        with suppress(InferenceServerException):  # it was not registered
            self._client.unregister_system_shared_memory(name)
        self._client.register_system_shared_memory(name, key, array.nbytes)

    def close(self) -> None:
        """Unregisters and removes the region; the server may have ended."""
        with suppress(InferenceServerException, OSError):
            self._client.unregister_system_shared_memory(self.name)
        self._client.close()
        shared_memory.destroy_shared_memory_region(self._region)


def request(
    protocol: Protocol,
    target: str,
    network: str,
    inputs: Arrays,
    *,
    shared: Mapping[str, SharedMemory] | None = None,
    answers: Mapping[str, SharedMemory] | None = None,
) -> load.Request:
    """A request with ``inputs`` to ``host:port``.

    Args:
        shared: regions by input, for inputs in shared memory.
        answers: regions by output, for outputs in shared memory.
    """
    if protocol == "raw":
        (array,) = inputs.values()
        headers = {"content-type": "application/octet-stream"}
        return load.Request(f"http://{target}/{network}", array.tobytes(), headers)
    tensors = _inputs(protocol, inputs, shared or {})
    outputs = [TRITON[protocol].InferRequestedOutput(name) for name in answers or ()]
    for output, region in zip(outputs, (answers or {}).values(), strict=True):
        output.set_shared_memory(region.name, region.bytes)
    return _http(target, network, tensors, outputs) if protocol == "http" else _grpc(target, network, tensors, outputs)


def _http(target: str, network: str, tensors: list[Any], outputs: list[Any]) -> load.Request:
    client = tritonclient.http.InferenceServerClient
    body, header_bytes = client.generate_request_body(tensors, outputs=outputs or None)
    headers = {"content-type": "application/octet-stream"}
    if header_bytes is not None:
        headers["inference-header-content-length"] = str(header_bytes)
    return load.Request(f"http://{target}/v2/models/{network}/infer", body, headers)


def _grpc(target: str, network: str, tensors: list[Any], outputs: list[Any]) -> load.Request:
    message = service_pb2.ModelInferRequest(model_name=network)
    for tensor in tensors:
        message.inputs.append(tensor._get_tensor())
        content = tensor._get_content()
        if content is not None:
            message.raw_input_contents.append(content)
    message.outputs.extend(output._get_tensor() for output in outputs)
    return load.grpc_request(target, GRPC_METHOD, message.SerializeToString())


def answer(protocol: Protocol, target: str, network: str, inputs: Arrays) -> np.ndarray:
    """The first output of one request with the protocol's client, flattened. Raises the client's exceptions."""
    if protocol == "raw":
        raw = request(protocol, target, network, inputs)
        made = urllib.request.Request(raw.url, raw.body, dict(raw.headers))
        with urllib.request.urlopen(made, timeout=ANSWER_S) as got:
            return np.frombuffer(got.read(), np.float32)
    limit = {"network_timeout": ANSWER_S} if protocol == "http" else {}
    with TRITON[protocol].InferenceServerClient(target, **limit) as client:
        got = client.infer(network, _inputs(protocol, inputs, {}))
    response = got.get_response()
    name = response["outputs"][0]["name"] if protocol == "http" else response.outputs[0].name
    return np.asarray(got.as_numpy(name)).reshape(-1)


def _inputs(protocol: Protocol, inputs: Arrays, shared: Mapping[str, SharedMemory]) -> list[Any]:
    made = []
    for name, array in inputs.items():
        tensor = TRITON[protocol].InferInput(name, list(array.shape), "FP32")
        if name in shared:
            tensor.set_shared_memory(shared[name].name, shared[name].bytes)
        else:
            tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made
