"""Three servers that record what they are sent, and answer as a test wants: to see where a gateway sends requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.scale.machines import HOSTS, free_ports
from tnn_serving.scale.gateway import Servers
from tnn_serving.triton.health_port import DEGRADED, GATEWAY_PATH

READY, DRAINING, NOT_READY = "ready", "draining", "not ready"


@dataclass
class Recorded:
    """One server.

    Attributes:
        health: what its health port says.
        behaviour: of inferences: "answers", "refuses" with 503, "drops" the connection, or "hangs".
        requests: paths of HTTP, and names of gRPC's methods.
    """

    host: str
    health: str = READY
    behaviour: str = "answers"
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def recorders(hosts: Sequence[str] = HOSTS) -> Iterator[tuple[Servers, list[Recorded]]]:
    """Runs them; they listen on the same ports at each address."""
    http_port, grpc_port, health_port = free_ports(3)
    found = [Recorded(host) for host in hosts]
    with ExitStack() as stack:
        for one in found:
            stack.callback(one.released.set)
            for port, handler in ((http_port, Infer), (health_port, Health)):
                server = Listening((one.host, port), handler, one)
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                threading.Thread(target=server.serve_forever, daemon=True).start()
            calls = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Calls(one), calls)
            assert calls.add_insecure_port(f"{one.host}:{grpc_port}") == grpc_port
            calls.start()
            stack.callback(calls.stop, 0)
        yield Servers(hosts, http_port, grpc_port, health_port), found


class Listening(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any, recorded: Recorded) -> None:
        super().__init__(address, handler)
        self.recorded = recorded


class Handler(BaseHTTPRequestHandler):
    server: Listening
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Health(Handler):
    def do_GET(self) -> None:
        recorded = self.server.recorded
        assert self.path == GATEWAY_PATH
        if recorded.health == DRAINING:
            self.answer(200, **DEGRADED)
        else:
            self.answer(200 if recorded.health == READY else 503)


class Infer(Handler):
    def do_POST(self) -> None:
        recorded = self.server.recorded
        self.rfile.read(int(self.headers["Content-Length"]))
        recorded.requests.append(self.path)
        recorded.headers.append({name.lower(): value for name, value in self.headers.items()})
        if recorded.behaviour == "drops":
            self.close_connection = True
            return
        if recorded.behaviour == "hangs":
            recorded.released.wait()
        self.answer(503 if recorded.behaviour == "refuses" else 200, json.dumps({"host": recorded.host}).encode())

    def do_GET(self) -> None:
        self.headers["Content-Length"] = "0"
        self.do_POST()


class Calls(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        recorded = self.recorded
        recorded.requests.append("ModelInfer")
        recorded.headers.append(dict(context.invocation_metadata()))
        if recorded.behaviour in ("refuses", "drops"):
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if recorded.behaviour == "hangs":
            recorded.released.wait()
        return service_pb2.ModelInferResponse(model_name=recorded.host)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self.recorded.requests.append("ModelStreamInfer")
        for _ in requests:
            found = service_pb2.ModelStreamInferResponse()
            found.infer_response.model_name = self.recorded.host
            yield found
