"""Bringing pictures to the size that a network takes: stretched, letterboxed, covering, cropped.

All of it is TNN's ``MatUtils``: ``Resize``, ``Crop`` and ``CopyMakeBorder``, in this order. What is added here are the
sizes and offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import with_channels
from tnn_serving.pictures.crop import copy_make_border
from tnn_serving.pictures.resize import Interp, Window, resize

ResizeMode = Literal["stretch", "letterbox", "cover"]

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of a certain size goes.

    Attributes:
        scaled: size that the whole picture is scaled to.
        window: the part of the scaled picture that is kept.
        size: of the result.
        top, left: where the window lies in the result; the rest is border.
    """

    scaled: Size
    window: Window
    size: Size
    top: int = 0
    left: int = 0

    def leaves(self, height: int, width: int) -> bool:
        """Whether a picture of this size stays as it is."""
        return self.scaled == self.size == (height, width)


@dataclass(frozen=True, slots=True)
class Fit:
    """How pictures of any size become pictures of one.

    Attributes:
        resize: (height, width), or ``None`` to leave the picture's own.
        mode: how a picture of another aspect ratio gets there.
        interpolation: TNN's InterpType.
        crop: (height, width) cut out of the middle afterwards, or ``None``.
        border: bytes around a letterboxed picture: one for all channels, or one a channel.
    """

    resize: Size | None = None
    mode: ResizeMode = "stretch"
    interpolation: Interp = "linear"
    crop: Size | None = None
    border: tuple[int, ...] = (0,)

    @property
    def size(self) -> Size | None:
        """Height and width of every result; ``None`` if pictures keep theirs."""
        return self.crop or self.resize

    def placement(self, height: int, width: int) -> Placement:
        """Where a picture of this size goes. Divisions round halves up, offsets round down.

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
            return Placement(scaled, Window(0, 0, *scaled), (rows, columns), top, left)
        scaled = (rows, columns)
        if self.mode == "cover":
            # The side that is relatively shorter fills the size.
            if height * columns <= width * rows:
                scaled = (rows, max(columns, _rounded(width * rows, height)))
            else:
                scaled = (max(rows, _rounded(height * columns, width)), columns)
        window = _middle(Window(0, 0, *scaled), (rows, columns))
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
        """The picture in its new size.

        Args:
            mat: uint8 [H, W, channels], or [H, W, 1 or 4] as :func:`tnn_serving.pictures.decode.decode_mat` gives it.
            channels: of the result; colours are converted after resizing.

        Returns:
            uint8 [H', W', channels].

        Raises:
            RequestError: no pixels, or fewer than the crop takes.
        """
        height, width = mat.shape[:2]
        if 0 in mat.shape:
            raise RequestError("picture is empty", found=list(mat.shape))
        place = self.placement(height, width)
        scaled = resize(mat, *place.scaled, self.interpolation, window=place.window)
        kept = with_channels(scaled, channels)
        if place.size == (place.window.height, place.window.width):
            return kept
        return copy_make_border(
            kept,
            top=place.top,
            bottom=place.size[0] - place.top - place.window.height,
            left=place.left,
            right=place.size[1] - place.left - place.window.width,
            border_val=self.border,
        )


def _rounded(dividend: int, divisor: int) -> int:
    """The quotient, halves rounded up."""
    return (2 * dividend + divisor) // (2 * divisor)


def _middle(outer: Window, size: Size) -> Window:
    """A window in the middle of another, the odd pixel at the bottom and right."""
    height, width = size
    return Window(outer.top + (outer.height - height) // 2, outer.left + (outer.width - width) // 2, height, width)
