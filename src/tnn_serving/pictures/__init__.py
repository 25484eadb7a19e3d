"""Picture operations of TNN's Mat: decoding, resizing, warping, colours, conversion to and from blobs, drawing.

In: encoded files or uint8 arrays.  Out: uint8 arrays and float32 blobs, bit-identical to TNN's.
Needs numpy and Pillow; imports only :mod:`tnn_serving.errors` from the package.
"""
