"""From a Graph to an ONNX model of standard operators with symbolic shapes.

In: :class:`tnn_serving.graph.Graph`.  Out: :class:`Translation` (the ONNX model and what is known of its blobs).
Must not import an engine, ``model``, ``serving`` or anything above.
"""
