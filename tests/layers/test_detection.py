"""Layers of ``detection``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tests.layers.drawing import FLOAT, OUTPUTS, Array, Draw, Parameters, Recipe, stored
from tests.layers.properties import agreement


def suppressed(layer: Any, boxes: Array, scores: Array) -> Array:
    """Greedy suppression of corner boxes by falling score."""
    rows = []
    for image, kind in itertools.product(range(scores.shape[0]), range(scores.shape[1])):
        kept: list[int] = []
        for box in np.argsort(-scores[image, kind]):
            room = len(kept) < layer.max_output_boxes_per_class
            if room and scores[image, kind, box] > layer.score_threshold:
                area = boxes[image]
                if all(_overlap(area[box], area[other]) <= layer.iou_threshold for other in kept):
                    kept.append(int(box))
        rows += [(image, kind, box) for box in kept]
    return np.array(rows, np.int32).reshape(-1, 3)


def _overlap(a: Array, b: Array) -> float:
    low = np.maximum(np.minimum(a[:2], a[2:]), np.minimum(b[:2], b[2:]))
    high = np.minimum(np.maximum(a[:2], a[2:]), np.maximum(b[:2], b[2:]))
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / float(np.prod(np.abs(a[2:] - a[:2])) + np.prod(np.abs(b[2:] - b[:2])) - shared)


def _corners(d: Draw, *dims: int) -> Array:
    low = d.smooth((*dims, 2))
    return np.concatenate([low, low + d.smooth((*dims, 2), 0.1, 0.6)], axis=-1)


def draw_suppression(d: Draw, p: Parameters) -> list[Array]:
    images, boxes, classes = d.int(1, 2), d.int(1, 6), d.int(1, 3)
    p["center_point_box"] = 0
    p["max_output_boxes_per_class"] = type(p["max_output_boxes_per_class"])(d.int(0, 6))
    p["iou_threshold"], p["score_threshold"] = d.choice(0.0, 0.25, 0.5), d.choice(0.0, 0.25)
    return [_corners(d, images, boxes), d.smooth((images, classes, boxes))]


def draw_prior_box(d: Draw, p: Parameters) -> list[Array]:
    p["min_sizes"] = tuple(float(d.int(2, 20)) for _ in range(d.int(1, 2)))
    p["max_sizes"] = tuple(m + d.int(1, 20) for m in p["min_sizes"]) if d.bool() else ()
    p["aspect_ratios"] = d.choice((1.0,), (1.0, 2.0), (1.0, 2.0, 0.5))
    p["variances"] = d.choice((0.125,), (0.125, 0.125, 0.25, 0.25))
    p["img_w"], p["img_h"] = d.choice((0, 0), (40, 30))
    p["step_w"], p["step_h"] = d.choice((0, 0), (8, 10))
    p["offset"] = 0.5
    n, c, h, w = d.shape((4, 4))
    return [d.floats((n, c, h, w)), d.floats((n, 3, d.int(8, 20), d.int(8, 20)))]


def draw_detection_output(d: Draw, p: Parameters) -> list[Array]:
    images, priors, classes = d.int(1, 2), d.int(1, 6), d.int(2, 4)
    p["num_classes"], p["background_label_id"] = classes, 0
    p["nms_threshold"], p["confidence_threshold"], p["eta"] = d.choice(0.25, 0.5), d.choice(0.0, 0.25), 1.0
    p["nms_top_k"], p["keep_top_k"] = d.choice(-1, 3), d.int(1, 8)
    each = 1 if p["share_location"] else classes
    variances = np.full((1, 1, priors * 4), 0.125, FLOAT)
    prior = np.concatenate([_corners(d, priors).reshape(1, 1, -1), variances], axis=1)
    return [d.smooth((images, priors * 4 * each), -1, 1), d.smooth((images, priors * classes)), prior]


def draw_detection_post_process(d: Draw, p: Parameters) -> list[Array]:
    count, classes = d.int(1, 6), d.int(1, 3)
    p["num_classes"], p["max_classes_per_detection"], p["use_regular_nms"] = classes, 1, 0
    p["nms_score_threshold"], p["nms_iou_threshold"] = d.choice(0.0, 0.25), d.choice(0.25, 0.5)
    for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
        p[name] = d.choice(1.0, 5.0, 10.0)
    p["anchors"] = stored(d.smooth((count, 4), 0.25, 1.0))
    p[OUTPUTS] = 4
    return [d.smooth((1, 4, count), -1, 1), d.smooth((1, classes + 1, count))]


RECIPES: dict[str, Recipe] = {
    "DetectionOutput": Recipe(draw_detection_output),
    "DetectionPostProcess": Recipe(draw_detection_post_process),
    "NonMaxSuppression": Recipe(draw_suppression, suppressed),
    "PriorBox": Recipe(draw_prior_box),
}

test_engines_and_reference_agree = agreement(RECIPES)
