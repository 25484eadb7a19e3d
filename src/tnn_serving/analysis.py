"""What is known of a network without having it: a value that is made once per load and can be written down.

In: a :class:`~tnn_serving.network.base.Network`.  Out: a frozen :class:`Analysis`, and the translation that it was read
off, for the engines.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tnn_serving.errors import FormatError
from tnn_serving.network.base import Network, Pictures, Variant
from tnn_serving.translate.graph import Blob, Translation
from tnn_serving.translate.pictures import PictureInput

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Of the JSON; another version is refused."""

NOT_EXAMINED = "not examined"
"""The obstacle to joining rows of a network that was not asked about it."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that running and serving a network needs to know of it.

    Attributes:
        source: the file it came from.
        fingerprint: hash of everything that decides what the network computes, as hex.
        inputs: in file order, picture inputs as uint8 pixels [N, H, W, C]; ``dims`` are the default ones, ``known``
            those that hold at any shape.
        outputs: names of the network's outputs, in file order.
        blobs: every blob that can be an output, in the order of the layers.
        optional: inputs that have a stored value and may be left out.
        sizing: inputs whose values, not only their dims, decide how large something is.
        default_shapes: a shape of each input in the network's own layout.
        quantized: it has int8 layers of TNN's.
        pictures, raw_int8: the settings that it was made with.
        weight_bytes: size of the weights in the types they are computed in.
        compiled_bytes: an estimate of the weights as an engine gets them.
        activation_bytes: an estimate of the largest sum of activations alive at one time, at the default shapes.
        checked: every layer has been asked whether it takes the default shapes.
        obstacle: what prevents that rows of several requests run as one inference; ``None`` if nothing does.
    """

    source: str
    fingerprint: str
    inputs: tuple[Blob, ...]
    outputs: tuple[str, ...]
    blobs: tuple[Blob, ...]
    optional: tuple[str, ...]
    sizing: tuple[str, ...]
    default_shapes: dict[str, tuple[int, ...]]
    quantized: bool
    pictures: dict[str, PictureInput]
    raw_int8: bool
    weight_bytes: int
    compiled_bytes: int
    activation_bytes: int
    checked: bool
    obstacle: str | None = NOT_EXAMINED

    def to_json(self) -> bytes:
        """The analysis as JSON, for another process or the next start."""
        return msgspec.json.encode({"version": FORMAT_VERSION, "analysis": self}, enc_hook=_encoded)

    @classmethod
    def from_json(cls, text: bytes) -> Analysis:
        """The analysis that :meth:`to_json` wrote. Raises FormatError for anything else."""
        try:
            written = msgspec.json.decode(text, type=_Written, dec_hook=_decoded)
        except (msgspec.DecodeError, TypeError, ValueError) as error:
            raise FormatError("analysis cannot be read", found=str(error)) from error
        if written.version != FORMAT_VERSION:
            raise FormatError("analysis has another version", expected=FORMAT_VERSION, found=written.version)
        return written.analysis


@dataclass(frozen=True, slots=True)
class _Written:
    version: int
    analysis: Analysis


def _encoded(value: object) -> object:
    if isinstance(value, np.dtype):
        return value.str
    raise NotImplementedError(f"no JSON for {type(value)}")


def _decoded(kind: type, value: object) -> Any:
    if kind is np.dtype:
        return np.dtype(str(value))
    raise NotImplementedError(f"no {kind} in JSON")


def analyse(
    network: Network,
    *,
    outputs: Sequence[str] | None = None,
    pictures: Pictures | None = None,
    raw_int8: bool = False,
    obstacle: str | None = NOT_EXAMINED,
) -> tuple[Analysis, Translation]:
    """Translates a network once, and says what the translation shows.

    Args:
        outputs: blobs that are going to be asked for, if not the network's outputs; unknown ones are passed over.
        pictures: inputs to take as uint8 pixels.
        raw_int8: int8 inputs and outputs are codes.
        obstacle: as :attr:`Analysis.obstacle`.

    Raises:
        UnsupportedLayer, ShapeError, WeightsError, LimitError, ConfigError: as the network's translation.
    """
    shown: Mapping[str, PictureInput] = pictures or {}
    wanted = [name for name in outputs or () if network.producer(name) is not None]
    variant = Variant(tuple(wanted or network.outputs), tuple(network.optional), shown, raw_int8=raw_int8)
    made = network.translate(variant)
    for value in made.model.graph.inputs:
        if not any(True for _ in value.uses()):
            log.warning("%s: input `%s` is not used by any layer", network.source, value.name)
    analysis = Analysis(
        source=network.source,
        fingerprint=network.fingerprint(),
        inputs=tuple(made.inputs),
        outputs=tuple(network.outputs),
        blobs=tuple(blob for name, blob in made.blobs.items() if network.producer(name) is not None),
        optional=tuple(network.optional),
        sizing=made.sizing,
        default_shapes=network.default_shapes,
        quantized=network.quantized,
        pictures=dict(shown),
        raw_int8=raw_int8,
        weight_bytes=network.weight_bytes,
        compiled_bytes=made.weights_bytes,
        activation_bytes=made.activations_bytes,
        checked=made.checked,
        obstacle=obstacle,
    )
    return analysis, made
