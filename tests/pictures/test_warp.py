"""Warping beyond what was recorded."""

from __future__ import annotations

import numpy as np

from tnn_serving.pictures.warp import warp_affine

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_warp_border_replicate_repeats_the_edge() -> None:
    picture = noise(1, 6, 7, 3)
    moved = warp_affine(picture, np.array([[1, 0, 3], [0, 1, 2]]), 8, 10, border="replicate")
    np.testing.assert_array_equal(moved[0, 2:, 3:], picture[0])
    assert (moved[0, :2, 3:] == picture[0, 0]).all()
    assert (moved[0, 2:, :3] == picture[0, :, :1]).all()


def test_a_transform_that_cannot_be_inverted_shows_the_corner() -> None:
    picture = noise(1, 6, 7, 1)
    assert (warp_affine(picture, np.zeros((2, 3)), 3, 3) == picture[0, 0, 0]).all()
