"""The backend that runs inside tritonserver: a C library that starts CPython there, and the module it imports.

``bridge`` is the only importable part; the C sources are compiled to ``triton/backends/tnn/libtriton_tnn.so``.
"""
