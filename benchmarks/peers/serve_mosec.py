"""mosec: raw bytes in and out; its HTTP server is written in Rust, each worker is a process."""

from __future__ import annotations

import sys

from mosec import Runtime, Server, Worker

from network import BATCH, BATCH_WAIT_S, PORT, WORKERS, Network


class Bytes(Worker):
    """Uses the body unchanged, instead of JSON, the default."""

    name = ""
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self.network = Network(self.name)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes | list[bytes]) -> bytes | list[bytes]:
        return self.network.run_many(data) if BATCH > 1 else self.network.run(data)


class Tiny(Bytes):
    name = "tiny"


class Squeezenet(Bytes):
    name = "squeezenet"


def runtime(kind: type[Bytes]) -> Runtime:
    return Runtime(kind, num=WORKERS, max_batch_size=BATCH, max_wait_time=round(BATCH_WAIT_S * 1e3))


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning", "--timeout", "30000"]
    server = Server()
    server.register_runtime({f"/{kind.name}": [runtime(kind)] for kind in (Tiny, Squeezenet)})
    server.run()
