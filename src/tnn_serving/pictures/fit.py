"""Fitting pictures to a network's input size: stretch, letterbox, cover, crop.

The pixels come from TNN's ``MatUtils``: ``Resize``, ``Crop`` and ``CopyMakeBorder``, in this order. This module
computes sizes and offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import with_channels
from tnn_serving.pictures.crop import copy_make_border
from tnn_serving.pictures.resize import Interp, Rectangle, resize

ResizeMode = Literal["stretch", "letterbox", "cover"]

PictureSize = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture of a certain size is fitted.

    Attributes:
        scaled: size of the whole picture after scaling.
        window: the part of the scaled picture that is used.
        size: of the result.
        top, left: position of the window in the result; the rest is border.
    """

    scaled: PictureSize
    window: Rectangle
    size: PictureSize
    top: int = 0
    left: int = 0

    def is_identity(self, height: int, width: int) -> bool:
        """Whether a picture of this size is unchanged."""
        return self.scaled == self.size == (height, width)


@dataclass(frozen=True, slots=True)
class Fit:
    """How pictures of any size are fitted to one size.

    Attributes:
        resize: (height, width), or ``None`` to keep the picture's size.
        mode: how a picture of another aspect ratio is resized.
        interpolation: TNN's InterpType.
        crop: (height, width) of a centre crop afterwards, or ``None``.
        border: bytes around a letterboxed picture: one for all channels, or one per channel.
    """

    resize: PictureSize | None = None
    mode: ResizeMode = "stretch"
    interpolation: Interp = "linear"
    crop: PictureSize | None = None
    border: tuple[int, ...] = (0,)

    @property
    def size(self) -> PictureSize | None:
        """Height and width of every result; ``None`` if pictures keep their size."""
        return self.crop or self.resize

    def placement(self, height: int, width: int) -> Placement:
        """The placement of a picture of this size. Divisions round halves up, offsets round down.

        Raises:
            RequestError: the picture is smaller than the crop.
        """
        rows, columns = self.resize or (height, width)
        if self.mode == "letterbox":
            # The side that is relatively longer fills the size.
            if height * columns >= width * rows:
                scaled = (rows, max(1, _rounded(width * rows, height)))
            else:
                scaled = (max(1, _rounded(height * columns, width)), columns)
            top, left = (rows - scaled[0]) // 2, (columns - scaled[1]) // 2
            return Placement(scaled, Rectangle(0, 0, *scaled), (rows, columns), top, left)
        scaled = (rows, columns)
        if self.mode == "cover":
            # The side that is relatively shorter fills the size.
            if height * columns <= width * rows:
                scaled = (rows, max(columns, _rounded(width * rows, height)))
            else:
                scaled = (max(rows, _rounded(height * columns, width)), columns)
        window = _middle(Rectangle(0, 0, *scaled), (rows, columns))
        if self.crop is not None:
            if self.crop[0] > rows or self.crop[1] > columns:
                raise RequestError(
                    "picture is smaller than the crop",
                    expected=f"at least {self.crop[1]} x {self.crop[0]}",
                    found=f"{columns} x {rows}",
                )
            window = _middle(window, self.crop)
        return Placement(scaled, window, (window.height, window.width))

    def apply(self, mat: np.ndarray, channels: int) -> np.ndarray:
        """The fitted picture.

        Args:
            mat: uint8 [H, W, channels], or [H, W, 1 or 4] as from :func:`tnn_serving.pictures.decode.decode_mat`.
            channels: of the result; colours are converted after resizing.

        Returns:
            uint8 [H', W', channels].

        Raises:
            RequestError: no pixels, or fewer than the crop needs.
        """
        height, width = mat.shape[:2]
        if 0 in mat.shape:
            raise RequestError("picture is empty", found=list(mat.shape))
        place = self.placement(height, width)
        scaled = resize(mat, *place.scaled, self.interpolation, window=place.window)
        inner = with_channels(scaled, channels)
        if place.size == (place.window.height, place.window.width):
            return inner
        return copy_make_border(
            inner,
            top=place.top,
            bottom=place.size[0] - place.top - place.window.height,
            left=place.left,
            right=place.size[1] - place.left - place.window.width,
            border_val=self.border,
        )


def _rounded(dividend: int, divisor: int) -> int:
    """The quotient, halves rounded up."""
    return (2 * dividend + divisor) // (2 * divisor)


def _middle(outer: Rectangle, size: PictureSize) -> Rectangle:
    """A rectangle centred in another; an odd pixel remains at the bottom and right."""
    height, width = size
    return Rectangle(outer.top + (outer.height - height) // 2, outer.left + (outer.width - width) // 2, height, width)
