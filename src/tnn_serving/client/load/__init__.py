"""Load on a running server, and what it does under it.

In: the address of a server, a model's name, a level of load.  Out: :class:`Measurement`.  The client shares the cores
with the server, so requests are built once and sent over raw sockets; nothing is decoded that need not be.
"""

from __future__ import annotations

from tnn_serving.client.load.measure import Target, measure
from tnn_serving.client.load.measurement import ClientSide, Latency, Measurement, Window
from tnn_serving.client.load.server import ServerSide

__all__ = ["ClientSide", "Latency", "Measurement", "ServerSide", "Target", "Window", "measure"]
