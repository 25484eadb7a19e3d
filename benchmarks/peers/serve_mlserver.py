"""MLServer: KServe's gRPC with raw tensor contents, its only binary protocol. One worker runs inside the server."""

from __future__ import annotations

import asyncio
import tempfile

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import NAMES, PORT, WORKERS, Network


class OpenVINO(MLModel):
    async def load(self) -> bool:
        self.network = Network(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.network.run_array(array)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self.network.output_name, answer)]
        )


async def serve() -> None:
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=PORT,
        http_port=PORT + 1,
        metrics_endpoint=None,
        metrics_dir=tempfile.gettempdir(),
        gzip_enabled=False,
        load_models_at_startup=False,
        # One worker in a process of its own only adds a hop.
        parallel_workers=0 if WORKERS == 1 else WORKERS,
    )
    models = [ModelSettings(name=name, implementation="serve_mlserver.OpenVINO") for name in NAMES]
    await MLServer(settings).start(models)


if __name__ == "__main__":
    asyncio.run(serve())
