"""Conversion of pixels to a network's input: TNN's ``MatConvertParam``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PictureInput:
    """Parameters of the conversion from pixels to a blob, in TNN's terms.

    Attributes:
        scale, bias: one number for all channels, or one per channel, in the order of the blob's channels.
        reverse_channel: swap the first and third channel before scale and bias.
    """

    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    reverse_channel: bool = False
