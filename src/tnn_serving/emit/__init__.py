"""Building ONNX graphs: operators with their inference, limits on what a network may ask for, int8 arithmetic.

In: operators and values.  Out: nodes and initializers of an ONNX graph.  Must not import ``layers`` or anything above.
"""
