"""What is known of a network without having it: a value that is made once per load and can be written down.

It needs neither the network's files nor ONNX: a network can be run and served with this alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tnn_serving.errors import FormatError
from tnn_serving.pictures.conversion import PictureInput

FORMAT_VERSION = 1
"""Of the JSON; another version is refused."""

NOT_EXAMINED = "not examined"
"""The obstacle to joining rows of a network that was not asked about it."""


SOFTMAX = ".softmax"
"""What the name of an output ends in that is the softmax of a blob."""


def scores_of(output: str, blobs: Collection[str]) -> str:
    """The blob that an output is made of: itself, or the one whose softmax it is."""
    return output if output in blobs else output.removesuffix(SOFTMAX)


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a blob: its type; its dims at the shapes that were translated (``None``: they depend on data);
    and the dims that hold at any shape (``None``: the caller's shapes decide)."""

    name: str
    dtype: np.dtype
    dims: tuple[int | None, ...]
    known: tuple[int | None, ...]


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
