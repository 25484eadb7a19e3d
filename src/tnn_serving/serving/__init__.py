"""All serving logic, without a server: model folders, configuration, and executing lists of requests.

In: a model folder, Triton's model configuration as a dict, requests as views of memory.  Out: a completed
configuration and responses.  Must not import ``triton`` or a client; the shim and its bridge only translate handles.
"""
