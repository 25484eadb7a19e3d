"""LitServe: raw bytes in and out, ZeroMQ between its processes (``fast_queue``), as many HTTP servers as workers."""

from typing import Annotated

import litserve as ls
from fastapi import Body, Response

from network import BATCH, BATCH_WAIT_S, NAMES, PORT, WORKERS, Network


class Api(ls.LitAPI):
    def __init__(self, name: str) -> None:
        super().__init__(api_path=f"/{name}", max_batch_size=BATCH, batch_timeout=BATCH_WAIT_S if BATCH > 1 else 0.0)
        self.name = name

    def setup(self, device: str) -> None:
        self.network = Network(self.name)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: bytes | list[bytes]) -> bytes | list[bytes]:
        return self.network.run_many(x) if BATCH > 1 else self.network.run(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    apis = [Api(name) for name in NAMES]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True)
    server.run(
        host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False, loop="uvloop", http="httptools"
    )
