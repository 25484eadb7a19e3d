"""The shield: Envoy in front of tritonserver, where strangers can reach the server.

:mod:`~tnn_serving.shield.configuration` fills ``envoy.yaml`` with :mod:`~tnn_serving.shield.routes` to what
:mod:`~tnn_serving.shield.paths` lists and :mod:`~tnn_serving.shield.clusters` of servers. :class:`RunningEnvoy` in
:mod:`~tnn_serving.shield.running` is the program, and :mod:`~tnn_serving.shield.front` runs it beside the supervised
server. The package knows nothing of gateways to several servers, which are made of the same parts.
"""
