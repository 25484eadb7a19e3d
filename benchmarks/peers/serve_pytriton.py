"""PyTriton: KServe's HTTP with binary tensors on tritonserver's own port; the model runs in this process."""

from __future__ import annotations

import os
import sysconfig

import numpy as np
from pytriton.decorators import batch, sample
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from network import BATCH, NAMES, OTHER_PORTS, PORT, Network


def bind(triton: Triton, name: str) -> None:
    network = Network(name)

    def infer(**inputs: np.ndarray) -> list[np.ndarray]:
        return [network.run_array(next(iter(inputs.values())))]

    batches = BATCH > 1
    config = ModelConfig(batching=True, max_batch_size=BATCH, batcher=DynamicBatcher())
    triton.bind(
        model_name=name,
        infer_func=batch(infer) if batches else sample(infer),
        inputs=[Tensor(name=network.input_name, dtype=np.float32, shape=network.shape[batches:])],
        outputs=[Tensor(name=network.output_name, dtype=np.float32, shape=network.output_shape[batches:])],
        config=config if batches else ModelConfig(batching=False),
        strict=False,
    )


if __name__ == "__main__":
    # Its proxy inside tritonserver needs the libpython of this Python; without this it finds the system's.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        grpc_address="127.0.0.1",
        grpc_port=OTHER_PORTS[0],
        metrics_port=OTHER_PORTS[1],
        allow_gpu_metrics=False,
    )
    with Triton(config=config) as triton:
        for name in NAMES:
            bind(triton, name)
        triton.serve()
