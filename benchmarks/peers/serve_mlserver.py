"""MLServer: KServe's gRPC with raw tensor contents, its only binary protocol. One worker runs inside the server."""

from __future__ import annotations

import asyncio
import tempfile

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from network import BATCH, BATCH_WAIT_S, NAMES, OTHER_PORTS, PORT, WORKERS, Network


class OpenVINO(MLModel):
    async def load(self) -> bool:
        self.network = Network(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = NumpyCodec.encode_output(self.network.output_name, self.network.run_array(rows))
        return InferenceResponse(model_name=self.name, outputs=[answer])


def model(name: str) -> ModelSettings:
    batching = {"max_batch_size": BATCH, "max_batch_time": BATCH_WAIT_S} if BATCH > 1 else {}
    return ModelSettings(name=name, implementation="serve_mlserver.OpenVINO", **batching)


async def serve() -> None:
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=PORT,
        http_port=OTHER_PORTS[0],
        metrics_endpoint=None,
        metrics_dir=tempfile.gettempdir(),
        gzip_enabled=False,
        load_models_at_startup=False,
        # A single worker in a separate process only adds a hop.
        parallel_workers=0 if WORKERS == 1 else WORKERS,
    )
    await MLServer(settings).start([model(name) for name in NAMES])


if __name__ == "__main__":
    asyncio.run(serve())
