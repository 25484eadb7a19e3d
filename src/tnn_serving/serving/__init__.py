"""Answering requests, without a server: tensors and pictures in, inferences, responses and errors out.

In: a prepared model, and requests as views of memory.  Out: responses.  Must not import ``triton`` or a client; the
shim and its bridge only translate handles.
"""
