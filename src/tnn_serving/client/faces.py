"""Outputs of face detectors to boxes and landmarks: one class per family of detectors."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from tnn_serving.client.connection import ModelInfo
from tnn_serving.errors import RequestError


@dataclass(frozen=True, slots=True)
class Candidates:
    """Face candidates in pixels of the picture that was sent.

    Attributes:
        boxes: [n, 4], x1, y1, x2, y2.
        scores: [n].
        landmarks: [n, k, 2], x, y.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def pick(self, index: np.ndarray) -> Candidates:
        """The candidates at these indices."""
        return Candidates(self.boxes[index], self.scores[index], self.landmarks[index])


class FaceDetector(Protocol):
    """A family of face detectors.

    Attributes:
        multiple: height and width of the picture must be divisible by it.
        reverse_channel: the network takes B, G, R, and the server does not swap channels.
        threshold: default of the smallest score of a candidate.
    """

    @property
    def multiple(self) -> int: ...

    @property
    def reverse_channel(self) -> bool: ...

    @property
    def threshold(self) -> float: ...

    def candidates(self, outputs: dict[str, np.ndarray], height: int, width: int, threshold: float) -> Candidates:
        """Candidates with a score of at least ``threshold``, before suppression, in a picture of this size."""


@dataclass(frozen=True, slots=True)
class CenterFace:
    """CenterFace (Xu et al. 2019): a heat map of face centres at a quarter of the picture's size.

    For a face whose centre is in cell (row, column): ``height = 4 exp(size[0])``, ``width = 4 exp(size[1])``, centre
    ``y = 4 (row + offset[0] + 0.5)``, ``x = 4 (column + offset[1] + 0.5)``, landmark k
    ``y = top + height * landmarks[2k]``, ``x = left + width * landmarks[2k + 1]``.
    """

    STRIDE: ClassVar[int] = 4

    heat: str
    size: str
    offset: str
    points: str
    multiple: int = 32
    reverse_channel: bool = False
    threshold: float = 0.4

    def candidates(self, outputs: dict[str, np.ndarray], height: int, width: int, threshold: float) -> Candidates:
        """See :class:`FaceDetector`."""
        heat, size, offset, points = (outputs[name][0] for name in (self.heat, self.size, self.offset, self.points))
        rows, columns = np.nonzero(heat[0] >= threshold)
        spans = self.STRIDE * np.exp(size[:, rows, columns])
        centres = self.STRIDE * (np.stack([rows, columns]) + offset[:, rows, columns] + 0.5)
        corners = centres - spans / 2
        boxes = np.stack([corners[1], corners[0], corners[1] + spans[1], corners[0] + spans[0]], axis=-1)
        marks = points[:, rows, columns].reshape(points.shape[0] // 2, 2, rows.size)
        places = corners + spans * marks
        return Candidates(boxes, heat[0, rows, columns], places[:, ::-1].transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class UltraLight:
    """Ultra-Light-Fast-Generic-Face-Detector (320 and 640): SSD boxes against anchors, no landmarks.

    Anchors are squares at the cell centres of four feature maps. For an anchor (x, y, w, h), as fractions of the
    picture: ``centre = (x, y) + 0.1 * box[0:2] * (w, h)``, ``size = (w, h) * exp(0.2 * box[2:4])``.
    """

    ANCHORS: ClassVar[tuple[tuple[int, tuple[int, ...]], ...]] = (
        (8, (10, 16, 24)),
        (16, (32, 48)),
        (32, (64, 96)),
        (64, (128, 192, 256)),
    )
    CENTER_VARIANCE: ClassVar[float] = 0.1
    SIZE_VARIANCE: ClassVar[float] = 0.2

    scores: str
    boxes: str
    multiple: int = 1
    reverse_channel: bool = True
    threshold: float = 0.7

    def candidates(self, outputs: dict[str, np.ndarray], height: int, width: int, threshold: float) -> Candidates:
        """See :class:`FaceDetector`. Raises RequestError if boxes and anchors do not match."""
        scores = outputs[self.scores].reshape(-1, 2)[:, 1]
        deltas = outputs[self.boxes].reshape(-1, 4)
        anchors = self.anchors(height, width)
        if len(anchors) != len(deltas) or len(scores) != len(deltas):
            raise RequestError(
                "boxes do not match the anchors",
                expected=f"{len(anchors)} boxes",
                found=f"{len(deltas)}, {len(scores)} scores",
            )
        chosen = np.nonzero(scores >= threshold)[0]
        anchor, delta = anchors[chosen], deltas[chosen]
        centres = anchor[:, :2] + self.CENTER_VARIANCE * delta[:, :2] * anchor[:, 2:]
        sizes = anchor[:, 2:] * np.exp(self.SIZE_VARIANCE * delta[:, 2:])
        scale = np.array([width, height])
        boxes = np.concatenate([(centres - sizes / 2) * scale, (centres + sizes / 2) * scale], axis=-1)
        return Candidates(boxes, scores[chosen], np.zeros((chosen.size, 0, 2)))

    @classmethod
    def anchors(cls, height: int, width: int) -> np.ndarray:
        """float64 [n, 4], in the network's order: centre x, y, width and height as fractions of the picture."""
        rows = []
        for step, sides in cls.ANCHORS:
            grid = itertools.product(range(math.ceil(height / step)), range(math.ceil(width / step)), sides)
            for row, column, side in grid:
                centre = ((column + 0.5) * step / width, (row + 0.5) * step / height)
                rows.append((*centre, side / width, side / height))
        return np.minimum(np.array(rows, np.float64), 1.0)


def detector_for(model: ModelInfo) -> FaceDetector:
    """The detector family with a model's outputs.

    Raises:
        RequestError: no family has these outputs.
    """
    names = [item.name for item in model.outputs]
    if {"scores", "boxes"} == set(names):
        return UltraLight("scores", "boxes")
    channels = [item.shape[1] if len(item.shape) == 4 else 0 for item in model.outputs]
    if channels == [1, 2, 2, 10]:
        heat, size, offset, points = names
        return CenterFace(heat, size, offset, points)
    raise RequestError(
        f"model `{model.name}` is not a known face detector",
        expected="CenterFace: 4 outputs of 1, 2, 2 and 10 channels; Ultra-Light: outputs `scores` and `boxes`",
        found=", ".join(f"{item.name} {list(item.shape)}" for item in model.outputs),
    )


def suppress(candidates: Candidates, overlap: float) -> Candidates:
    """Non-maximum suppression: the candidates, best first, without those that overlap a better one.

    Args:
        overlap: largest intersection over union of two candidates that both remain.
    """
    order = np.argsort(-candidates.scores, kind="stable")
    x1, y1, x2, y2 = candidates.boxes.T
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    chosen = []
    while order.size:
        best, rest = order[0], order[1:]
        chosen.append(best)
        wide = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        high = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        order = rest[shared <= overlap * (area[best] + area[rest] - shared)]
    return candidates.pick(np.array(chosen, np.int64))
