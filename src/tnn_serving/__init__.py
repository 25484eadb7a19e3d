"""TNN models, read, translated to ONNX and run on OpenVINO or ONNX Runtime; served with Triton.

import tnn_serving as ts
model = ts.load("models/face_detection/1")
answer = model.run(picture)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tnn_serving import errors as errors
from tnn_serving.first_use import on_first_use
from tnn_serving.version import VERSION as __version__

if TYPE_CHECKING:
    from tnn_serving.conversion.convert import convert
    from tnn_serving.formats.tnn import read_model, write_model
    from tnn_serving.look.compare import compare
    from tnn_serving.model import Model, to_onnx
    from tnn_serving.prepare.load import load
    from tnn_serving.random_weights import fill_random_weights
else:
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "tnn_serving.conversion.convert": ("convert",),
            "tnn_serving.formats.tnn": ("read_model", "write_model"),
            "tnn_serving.look.compare": ("compare",),
            "tnn_serving.model": ("Model", "to_onnx"),
            "tnn_serving.prepare.load": ("load",),
            "tnn_serving.random_weights": ("fill_random_weights",),
        },
    )

__all__ = [
    "Model",
    "__version__",
    "compare",
    "convert",
    "errors",
    "fill_random_weights",
    "load",
    "read_model",
    "to_onnx",
    "write_model",
]
