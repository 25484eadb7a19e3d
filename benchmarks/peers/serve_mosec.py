"""mosec: raw bytes in and out; its HTTP server is in Rust, each worker a process.

Batching is off: with it, a request that is alone waits for company (``max_wait_time``), and a CPU gains nothing.
"""

from __future__ import annotations

import sys

from mosec import Runtime, Server, Worker
from network import PORT, WORKERS, Network


class Bytes(Worker):
    """Leaves the body as it is, where the default is JSON."""

    name = ""
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self.network = Network(self.name)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return self.network.run(data)


class Tiny(Bytes):
    name = "tiny"


class Squeezenet(Bytes):
    name = "squeezenet"


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning", "--timeout", "30000"]
    server = Server()
    server.register_runtime({f"/{kind.name}": [Runtime(kind, num=WORKERS)] for kind in (Tiny, Squeezenet)})
    server.run()
