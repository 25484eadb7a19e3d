"""What a model needs to know of a network, whatever files it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tnn_serving.choices import Int8Choice
from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import Limits
from tnn_serving.engines.base import NO_ARRAYS, Arrays, Engine
from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import TnnError
from tnn_serving.network.int8 import Decision
from tnn_serving.network.views import LayerView, WeightView
from tnn_serving.pictures.conversion import PictureInput

if TYPE_CHECKING:
    from tnn_serving.translate.graph import ShapeCheck, Translation

InputShapes = Mapping[str, Sequence[int]]
Pictures = Mapping[str, PictureInput]


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the forms that a network can be translated to.

    Attributes:
        outputs: blobs that are the outputs.
        fed: optional inputs that the caller feeds.
        pictures: inputs that are uint8 pixels [N, H, W, C].
        form: how int8 layers are written.
        raw_int8: int8 inputs and outputs are codes.
    """

    outputs: tuple[str, ...]
    fed: tuple[str, ...] = ()
    pictures: Pictures = field(default_factory=dict)
    form: Form = Form.EXACT
    raw_int8: bool = False


class Network(Protocol):
    """A network that can be said in ONNX.

    Attributes:
        source: the file it came from.
        version: of its format, as the file says it.
        limits: what it may ask for while it is loaded, and of memory at each shape.
        outputs: names of its outputs, in file order.
        optional: inputs that have a stored value and may be left out.
        quantized: it has int8 layers of TNN's.
        int8_blobs: number of int8 blobs of TNN's that have a scale.
        stored_bytes: size of its weights and constants in the file.
        weight_bytes: size of them in memory.
        default_shapes: a shape of each input that the network takes, in the network's own layout.
    """

    @property
    def source(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def outputs(self) -> list[str]: ...
    @property
    def optional(self) -> list[str]: ...
    @property
    def quantized(self) -> bool: ...
    @property
    def int8_blobs(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def translate(self, variant: Variant) -> Translation:
        """The network as an ONNX model with free dims symbolic, and what is known of its blobs.

        Raises ShapeError for an output that is not there, LimitError for more memory or time than allowed.
        """

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> ShapeCheck:
        """Asks whether the network takes these shapes, and values of inputs that decide sizes.

        Raises ShapeError naming the layer that refuses, LimitError for more memory than allowed.
        """

    def layers(self, shapes: InputShapes | None = None) -> list[LayerView]:
        """The layers in file order.

        Args:
            shapes: of each input, to give the dims of outputs and the multiply-accumulates at; left out, what the file
                says is all, and nothing is refused.

        Raises UnsupportedLayer, ShapeError, WeightsError: the network cannot run, or not at these shapes.
        """

    def constants(self) -> list[WeightView]:
        """Stored tensors that are no single layer's."""

    def refusals(self) -> list[TnnError]:
        """Why the network cannot run: one error for each layer at fault."""

    def int8_form(self, engine: Engine, choice: Int8Choice, cpu: Cpu) -> Decision:
        """How int8 layers are run on an engine."""

    def batched(self, outputs: Sequence[str], *, asked: bool = False) -> tuple[Network, str | None]:
        """The network with batch sizes that are written down in it made free, where that is provably right; and what
        keeps the rows of a batch from being independent, if anything does.

        Args:
            outputs: blobs that are served.
            asked: batches are asked for. The first dims of an ONNX file stay as they are otherwise: clients see them.
        """

    def settled(self) -> Network:
        """The same network for requests: without a time limit, and without what only a load needs."""

    def producer(self, blob: str) -> str | None:
        """The layer that produces a blob, as messages name it; ``None`` for an input, a constant or an unknown name."""

    def fingerprint(self) -> str:
        """A hash of everything that decides what the network computes, as hex."""
