"""Client of a running server: classification, face detection, request bodies.

In: pictures and the address of a server.  Out: labels, faces, JSON.  Built on tritonclient; must not import the serving
side of the package.
"""

from __future__ import annotations

from tnn_serving.client.classify import Prediction, classify
from tnn_serving.client.connection import Connection, ModelInfo, TensorInfo, connect
from tnn_serving.client.detect import Face, detect
from tnn_serving.client.request import request_body

__all__ = [
    "Connection",
    "Face",
    "ModelInfo",
    "Prediction",
    "TensorInfo",
    "classify",
    "connect",
    "detect",
    "request_body",
]
