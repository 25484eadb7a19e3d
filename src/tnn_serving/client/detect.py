"""Face detection: boxes and landmarks in pixels of the user's picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tnn_serving.client.connection import Connection, ModelInfo
from tnn_serving.client.faces import detector_for, suppress
from tnn_serving.client.pixels import picture_tensor
from tnn_serving.pictures.limits import MAX_SIDE

OVERLAP = 0.3
"""Two boxes with a larger intersection over union count as one face."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face; coordinates are pixels of the picture.

    Attributes:
        box: x1, y1, x2, y2.
        landmarks: x, y of the left and right eye as seen in the picture, nose, left and right corner of the mouth;
            empty if the detector has no landmarks.
    """

    score: float
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]


def detect(
    connection: Connection,
    model: ModelInfo,
    pixels: np.ndarray,
    *,
    threshold: float | None = None,
    max_side: int = MAX_SIDE,
) -> list[Face]:
    """The faces of a picture, best first.

    Args:
        pixels: uint8 [H, W, 3], R, G, B, of any size: shrunk to ``max_side`` and padded as the detector requires.
        threshold: smallest score; the detector's default if left out.

    Raises:
        RequestError: the model is not a known face detector.
        ServerError: no answer.
    """
    detector = detector_for(model)
    sent, scale = fitted(pixels, max_side=max_side, multiple=detector.multiple)
    if detector.reverse_channel:
        sent = sent[..., ::-1]
    outputs = connection.infer(model, picture_tensor(model, sent))
    least = detector.threshold if threshold is None else threshold
    faces = suppress(detector.candidates(outputs, sent.shape[0], sent.shape[1], least), OVERLAP)
    height, width = pixels.shape[:2]
    limit = np.array([width, height, width, height])
    boxes = np.clip(faces.boxes / scale, 0, limit)
    marks = faces.landmarks / scale
    return [
        Face(float(score), (float(x1), float(y1), float(x2), float(y2)), tuple((float(x), float(y)) for x, y in points))
        for score, (x1, y1, x2, y2), points in zip(faces.scores, boxes, marks, strict=True)
    ]


def fitted(pixels: np.ndarray, *, max_side: int, multiple: int) -> tuple[np.ndarray, float]:
    """The picture to send, and its scale: shrunk if it is too large, padded with black at the right and bottom."""
    scale = min(1.0, max_side / max(pixels.shape[:2]))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        # Pillow's filter averages all pixels; TNN's resize skips some.
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    missing = [-side % multiple for side in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)])
    return pixels, scale
