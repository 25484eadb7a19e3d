"""Layers of ``resize``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import numpy as np

from tests.layers.drawing import Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement
from tnn_serving.layers.parameters import HW


def draw_upsample(d: Draw, p: Parameters) -> list[Array]:
    p["scale_h"], p["scale_w"] = d.choice(0.5, 1.0, 1.5, 2.0, 3.0), d.choice(0.5, 1.0, 2.0, 2.5)
    n, c, h, w = d.shape((4, 4))
    p["size"] = d.choice(None, None, HW(d.int(1, 9), d.int(1, 9)))
    return [d.floats((n, c, h + 1, w + 1))]


def draw_grid_sample(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4))
    return [d.floats((n, c, h + 1, w + 1)), d.smooth((n, d.int(1, 4), d.int(1, 4), 2), -1.2, 1.2)]


def draw_roi_align(d: Draw, p: Parameters) -> list[Array]:
    """The average: the maximum is refused on OpenVINO, and recorded."""
    p["mode"], p["spatial_scale"] = 1, d.choice(0.25, 0.5, 1.0)
    p["output_height"], p["output_width"], p["sampling_ratio"] = d.int(1, 3), d.int(1, 3), d.int(0, 2)
    n, c, h, w = d.shape((4, 4), 3)
    corner = d.smooth((d.int(1, 4), 2), 0, 4)
    rois = np.concatenate([corner, corner + d.smooth(corner.shape, 1, 6)], axis=1)
    return [d.floats((n, c, h + 3, w + 3)), rois, d.ints([len(rois)], 0, n - 1)]


RECIPES: dict[str, Recipe] = {
    "GridSample": Recipe(draw_grid_sample, examples=12, constants=(1,)),
    "RoiAlign": Recipe(draw_roi_align),
    "Upsample": Recipe(draw_upsample, examples=20),
}

test_engines_and_reference_agree = agreement(RECIPES)
