"""ONNX Runtime on CPU.

``engine`` says what it can, and imports nothing of ONNX Runtime; ``session`` compiles and runs.
"""

import os

# Read by ONNX Runtime when it is imported: without it, its library looks for a server of statistics.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
