"""The two files of a TNN model, text and binary, to and from a Graph: syntax only, no meaning.

In: paths or bytes.  Out: :class:`tnn_serving.graph.Graph` with layers of their declared classes, and back, byte for
byte.  Must not import onnx, an engine, or anything above; :doc:`docs/reference/formats.md` describes the formats.
"""

from __future__ import annotations

from tnn_serving.formats.tnn.files import read_model, write_model

__all__ = ["read_model", "write_model"]
