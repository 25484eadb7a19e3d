"""OpenVINO on CPU.

``engine`` says what it can, and imports nothing of OpenVINO. In: an ONNX model. ``refusals`` and ``numbers`` keep out
what OpenVINO would compute otherwise than ONNX says, ``passes`` change its network, ``plugin`` compiles that, and
``executable`` and ``requests`` run it.
"""

import sys
from types import ModuleType

# OpenVINO's package reports its use to a server of statistics through this module. An empty one keeps it from that.
sys.modules.setdefault("openvino_telemetry", ModuleType("openvino_telemetry"))
