"""What a model needs to know of a network, whatever files it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import Limits
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import Cpu
from tnn_serving.network.int8 import Decision
from tnn_serving.translate.graph import Blob
from tnn_serving.translate.pictures import PictureInput

Pictures = Mapping[str, PictureInput]

NO_VALUES: Arrays = {}


@dataclass(frozen=True, slots=True)
class Border:
    """What callers feed a network and what they may ask it for: any blob, by name; and an estimate of its memory at
    the default shapes."""

    inputs: list[Blob]
    blobs: dict[str, Blob]
    weights_bytes: int = 0
    activations_bytes: int = 0


class Network(Protocol):
    """What a :class:`tnn_serving.Model` needs to know of a network.

    Attributes:
        source: the file it came from.
        outputs: names of its outputs.
        optional: inputs that have a stored value and may be left out.
        quantized: it has int8 layers of TNN's.
        weight_bytes: size of its weights in memory.
        default_shapes: a shape of each input that the network takes, in the network's own layout.
        limits: what it may ask for while it is loaded, and of memory at each shape.
        sizing: inputs whose values decide how large something is.
    """

    source: str
    limits: Limits
    sizing: tuple[str, ...]

    @property
    def outputs(self) -> list[str]: ...
    @property
    def optional(self) -> list[str]: ...
    @property
    def quantized(self) -> bool: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def border(self, pictures: Pictures, *, raw_int8: bool) -> Border:
        """What callers may feed, those of ``pictures`` as uint8 pixels [N, H, W, C], and what they may ask for."""

    def onnx(
        self, *, outputs: Sequence[str], given: Sequence[str], pictures: Pictures, form: Form, raw_int8: bool
    ) -> onnx.ModelProto:
        """The network as an ONNX model with free dims symbolic.

        Args:
            outputs: blobs to make the outputs.
            given: optional inputs that the caller will feed.
            pictures: inputs to take as pixels.
            form: how int8 layers are written.
            raw_int8: int8 blobs are codes at the border.

        Raises ShapeError for an output that is not there.
        """

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], given: Sequence[str], values: Arrays = NO_VALUES
    ) -> None:
        """Asks whether the network takes these shapes, and values of :attr:`sizing` inputs.

        Raises ShapeError naming the layer that refuses, LimitError for more memory than allowed.
        """

    def int8_form(self, engine: str, choice: str, cpu: Cpu) -> Decision:
        """How int8 layers are run on an engine. Raises ConfigError for an unknown choice."""

    def batched(self, outputs: Sequence[str]) -> tuple[Network, str | None]:
        """The network with sizes of a batch that are written down in it made free, where that is provably right; and
        what keeps the rows of a batch from being independent, if anything does."""

    def producer(self, blob: str) -> str:
        """The layer that produces a blob, as messages name it."""

    def fingerprint(self) -> str:
        """A hash of everything that decides what the network computes, as hex."""
