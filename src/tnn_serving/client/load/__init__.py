"""Load generator: puts load on a running server and measures it.

In: the address of a server, a model's name, a level of load.  Out: :class:`Measurement`.  The client shares the cores
with the server, so requests are built once and sent over raw sockets, and answers are decoded only where necessary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tnn_serving.first_use import on_first_use

if TYPE_CHECKING:
    from tnn_serving.client.load.measure import LoadTarget, measure_load
    from tnn_serving.client.load.measurement import ClientSide, Latency, Measurement, Window
    from tnn_serving.client.load.server_statistics import ServerSide
else:
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "tnn_serving.client.load.measure": ("LoadTarget", "measure_load"),
            "tnn_serving.client.load.measurement": ("ClientSide", "Latency", "Measurement", "Window"),
            "tnn_serving.client.load.server_statistics": ("ServerSide",),
        },
    )

__all__ = ["ClientSide", "Latency", "LoadTarget", "Measurement", "ServerSide", "Window", "measure_load"]
