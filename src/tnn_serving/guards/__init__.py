"""Guards: no engine sees an index, a length or a size that it cannot take.

``rules`` say which operands of ONNX's operators must be in which range, ``graph`` puts that into a model, ``checks`` is
what is left to look at in each inference, and ``executable`` does so around any engine's executable.
"""
