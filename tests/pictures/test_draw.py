"""Drawing of detections."""

from __future__ import annotations

import numpy as np

from tnn_serving.pictures.draw import PALETTE, draw_detections

GREY = np.full((200, 300, 3), 128, np.uint8)


def test_the_picture_itself_is_not_touched() -> None:
    before = GREY.copy()
    drawn = draw_detections(GREY, np.array([[10, 20, 60, 90]]))
    np.testing.assert_array_equal(GREY, before)
    assert drawn.shape == GREY.shape


def test_box_and_landmarks_are_at_their_coordinates() -> None:
    drawn = draw_detections(GREY, np.array([[100, 80, 200, 150]]), landmarks=np.array([[[150, 120]]]))
    for y, x in ((80, 150), (150, 150), (110, 100), (110, 200), (120, 150)):
        assert tuple(drawn[y, x]) == PALETTE[0]
    changed = np.argwhere((drawn != GREY).any(axis=-1))
    assert changed.min(axis=0).tolist() == [80, 100]
    assert changed.max(axis=0).tolist() == [150, 200]


def test_lines_scale_with_the_picture() -> None:
    small, large = (np.zeros((n, n, 3), np.uint8) for n in (100, 2000))
    lines = [
        int((draw_detections(p, np.array([[len(p) * 0.2] * 2 + [len(p) * 0.8] * 2]))[len(p) // 2] > 0).any(-1).sum())
        for p in (small, large)
    ]
    assert lines[0] == 2
    assert lines[1] == 16


def test_labels_and_scores_are_written_also_at_the_edges() -> None:
    boxes = np.array([[0, 0, 50, 50], [280, 190, 320, 220], [-20, 100, 30, 400]])
    plain = draw_detections(GREY, boxes, labels=["a", "b", "a"])
    scored = draw_detections(GREY, boxes, labels=["a", "b", "a"], scores=[0.5, 0.25, 1.0])
    assert (plain != scored).any()
    assert tuple(PALETTE[1]) in {tuple(p) for p in plain.reshape(-1, 3).tolist()}


def test_no_detection_draws_nothing() -> None:
    np.testing.assert_array_equal(draw_detections(GREY, np.zeros((0, 4))), GREY)
