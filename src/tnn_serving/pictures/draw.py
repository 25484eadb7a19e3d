"""Boxes, landmarks and labels on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tnn_serving.pictures.planes import checked_picture

PALETTE = ((0, 200, 83), (255, 145, 0), (41, 121, 255), (255, 23, 68), (213, 0, 249), (0, 184, 212), (255, 214, 0))
"""Saturated colours that are visible on photographs; one per label, in order of appearance."""


def draw_detections(
    picture: np.ndarray,
    boxes: np.ndarray,
    *,
    scores: Sequence[float] | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    landmarks: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of ``picture`` with all detections drawn on it; lines and text scale with the picture.

    Args:
        picture: uint8 [H, W, 3], R, G, B.
        boxes: [n, 4], x1, y1, x2, y2 in pixels; parts outside the picture are not drawn.
        scores: [n], written with two decimals.
        labels: n names; equal names get equal colours.
        landmarks: [n, k, 2], x, y in pixels.
    """
    height, width = checked_picture(picture).shape[:2]
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(height, width) / 250))
    font = ImageFont.load_default(max(10, round(min(height, width) / 35)))
    names = list(dict.fromkeys(labels)) if labels is not None else []
    for i, box in enumerate(np.asarray(boxes, np.float64).reshape(-1, 4)):
        colour = PALETTE[names.index(labels[i]) % len(PALETTE)] if labels is not None else PALETTE[0]
        x1, y1, x2, y2 = (round(v) for v in box.tolist())
        pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=line)
        for x, y in landmarks[i] if landmarks is not None else ():
            pen.ellipse((x - line, y - line, x + line, y + line), fill=colour, outline=(0, 0, 0) if line > 1 else None)
        text = _caption(i, scores, labels)
        if text:
            _tag(pen, text, font, colour, (x1, y1), (width, height), line)
    return np.asarray(canvas)


def _caption(i: int, scores: Sequence[float] | np.ndarray | None, labels: Sequence[str] | None) -> str:
    parts = [labels[i]] if labels is not None else []
    if scores is not None:
        parts.append(f"{float(scores[i]):.2f}")
    return " ".join(parts)


def _tag(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
    corner: tuple[float, float],
    size: tuple[int, int],
    line: int,
) -> None:
    """A filled label above the box, or inside its upper edge if there is no room above."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 2 * line, bottom - top + 2 * line
    x = min(max(corner[0], 0), max(size[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else min(max(corner[1], 0), max(size[1] - high, 0))
    pen.rectangle((x, y, x + wide, y + high), fill=colour)
    red, green, blue = colour
    dark = 0.299 * red + 0.587 * green + 0.114 * blue > 110
    pen.text((x + line - left, y + line - top), text, font=font, fill=(0, 0, 0) if dark else (255, 255, 255))
