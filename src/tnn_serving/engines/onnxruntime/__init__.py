"""ONNX Runtime on CPU.

``engine`` says what it can, and imports nothing of ONNX Runtime; ``session`` compiles and runs.
"""
