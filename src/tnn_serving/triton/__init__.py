"""Triton's process: finding, starting and supervising tritonserver, and the backend inside it.

In: a model repository. Out: a running server whose models are :class:`tnn_serving.serving.servable.Servable` objects.
May import serving and everything below it; must not import client or cli.
"""
