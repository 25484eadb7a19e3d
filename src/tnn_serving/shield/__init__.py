"""The shield: Envoy in front of tritonserver, where strangers can reach the server.

:mod:`~tnn_serving.shield.paths` lists what is served, :mod:`~tnn_serving.shield.configuration` fills ``envoy.yaml``,
and :mod:`~tnn_serving.shield.front` runs Envoy beside the supervised server.
"""
