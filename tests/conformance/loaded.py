"""A network on several engines, analysed once."""

from __future__ import annotations

from tnn_serving.engines import Options
from tnn_serving.graph import Graph
from tnn_serving.model import Model
from tnn_serving.network.analyse import analyse
from tnn_serving.network.tnn import TnnNetwork

ENGINES = ("openvino", "onnxruntime")


class Loaded:
    """A network whose int8 layers take their exact form.

    Args:
        graph: the network.
        raw_int8: int8 inputs and outputs are codes.
    """

    def __init__(self, graph: Graph, *, raw_int8: bool = False) -> None:
        self._network = TnnNetwork(graph)
        self._analysed = analyse(self._network, raw_int8=raw_int8)

    def on(self, engine: str) -> Model:
        """The network compiled on an engine."""
        return Model(self._network, *self._analysed, engine=engine, int8="exact", options=Options(threads=1))
