"""PyTriton: KServe's HTTP with binary tensors on tritonserver's own port; the model runs in this process.

Batching is off: gathering a batch of one costs a concatenation, and a CPU gains nothing.
"""

from __future__ import annotations

import os
import sysconfig

import numpy as np
from network import NAMES, PORT, Network
from pytriton.decorators import sample
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def bind(triton: Triton, name: str) -> None:
    network = Network(name)

    @sample
    def infer(**inputs: np.ndarray) -> list[np.ndarray]:
        return [network.run_array(next(iter(inputs.values())))]

    triton.bind(
        model_name=name,
        infer_func=infer,
        inputs=[Tensor(name=network.input_name, dtype=np.float32, shape=network.shape)],
        outputs=[Tensor(name=network.output_name, dtype=np.float32, shape=network.output_shape)],
        config=ModelConfig(batching=False),
        strict=False,
    )


if __name__ == "__main__":
    # Its proxy inside tritonserver needs the libpython of this very Python, and finds the system's otherwise.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        grpc_address="127.0.0.1",
        grpc_port=PORT + 1,
        metrics_port=PORT + 2,
        allow_gpu_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        for name in NAMES:
            bind(triton, name)
        triton.serve()
