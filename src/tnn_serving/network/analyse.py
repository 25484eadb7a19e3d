"""Analyses a network: one translation, and what it shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tnn_serving.analysis import NOT_EXAMINED, Analysis
from tnn_serving.network.base import Network, Pictures, Variant
from tnn_serving.pictures.conversion import PictureInput

if TYPE_CHECKING:
    from tnn_serving.translate.graph import Translation

log = logging.getLogger(__name__)


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
