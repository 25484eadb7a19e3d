"""Networks as models run them, whatever files they came from.

In: a source, such as a version folder, a pair of TNN's files or an ONNX file.  Out: :class:`Network`.  Must not import
``model``, ``serving`` or anything above.
"""
