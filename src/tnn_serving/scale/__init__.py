"""Beyond one machine: the same clients and models on several servers.

:mod:`~tnn_serving.scale.gateway` is the Envoy in front of them, made of the parts of :mod:`tnn_serving.shield`.
"""
