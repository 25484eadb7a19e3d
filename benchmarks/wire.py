"""How servers are asked for an inference in binary: their request, ready to be sent many times, and one real answer."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from typing import Literal

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from load import Request, grpc_request
from tritonclient.grpc import service_pb2

Protocol = Literal["raw", "http", "grpc"]
"""``raw``: the tensor's bytes as an HTTP body, path = network; ``http`` and ``grpc``: KServe's protocol, version 2."""

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
ANSWER_S = 20.0

Arrays = Mapping[str, np.ndarray]


def request(protocol: Protocol, target: str, network: str, inputs: Arrays) -> Request:
    """The request that carries ``inputs`` to ``host:port``."""
    if protocol == "raw":
        (array,) = inputs.values()
        return Request(f"http://{target}/{network}", array.tobytes(), {"content-type": "application/octet-stream"})
    if protocol == "http":
        return http_request(target, network, _inputs(triton_http, inputs))
    return grpc_message(target, network, _inputs(triton_grpc, inputs))


def http_request(target: str, network: str, tensors: list[triton_http.InferInput]) -> Request:
    """KServe's HTTP request with binary tensors, all outputs in binary."""
    body, header_bytes = triton_http.InferenceServerClient.generate_request_body(tensors)
    headers = {"content-type": "application/octet-stream"}
    if header_bytes is not None:
        headers["inference-header-content-length"] = str(header_bytes)
    return Request(f"http://{target}/v2/models/{network}/infer", body, headers)


def grpc_message(target: str, network: str, tensors: list[triton_grpc.InferInput]) -> Request:
    """KServe's gRPC request with raw contents."""
    message = service_pb2.ModelInferRequest(model_name=network)
    for tensor in tensors:
        message.inputs.append(tensor._get_tensor())
        content = tensor._get_content()
        if content is not None:
            message.raw_input_contents.append(content)
    return grpc_request(target, GRPC_METHOD, message.SerializeToString())


def answer(protocol: Protocol, target: str, network: str, inputs: Arrays) -> np.ndarray:
    """The first output, flat, of one request through the protocol's own client. Raises what the client raises."""
    if protocol == "raw":
        asked = request(protocol, target, network, inputs)
        made = urllib.request.Request(asked.url, asked.body, dict(asked.headers))
        with urllib.request.urlopen(made, timeout=ANSWER_S) as got:
            return np.frombuffer(got.read(), np.float32)
    if protocol == "http":
        with triton_http.InferenceServerClient(target, network_timeout=ANSWER_S) as client:
            return _first(client.infer(network, _inputs(triton_http, inputs)), "outputs")
    with triton_grpc.InferenceServerClient(target) as client:
        return _first(client.infer(network, _inputs(triton_grpc, inputs), client_timeout=ANSWER_S), "outputs")


def _inputs(module: object, inputs: Arrays) -> list:
    made = []
    for name, array in inputs.items():
        tensor = module.InferInput(name, list(array.shape), "FP32")  # type: ignore[attr-defined]
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def _first(result: object, key: str) -> np.ndarray:
    response = result.get_response()  # type: ignore[attr-defined]
    output = response[key][0]["name"] if isinstance(response, dict) else response.outputs[0].name
    return np.asarray(result.as_numpy(output)).reshape(-1)  # type: ignore[attr-defined]
