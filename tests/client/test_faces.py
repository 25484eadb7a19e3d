"""Outputs of face detectors to boxes and landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recordings import SHARED
from tnn_serving.client.connection import ModelInfo, TensorInfo
from tnn_serving.client.detect import fitted
from tnn_serving.client.faces import Candidates, CenterFace, UltraLight, detector_for, suppress
from tnn_serving.errors import RequestError

CENTERFACE = CenterFace("heat", "size", "offset", "points")


def centerface_outputs(
    faces: list[tuple[float, np.ndarray, np.ndarray]], rows: int, columns: int
) -> dict[str, np.ndarray]:
    """The network's outputs for these faces: score, box x1 y1 x2 y2, landmarks [5, 2] x y, in pixels."""
    outputs = {
        "heat": np.zeros((1, 1, rows, columns), np.float32),
        "size": np.zeros((1, 2, rows, columns), np.float32),
        "offset": np.zeros((1, 2, rows, columns), np.float32),
        "points": np.zeros((1, 10, rows, columns), np.float32),
    }
    for score, (x1, y1, x2, y2), marks in faces:
        middle_x, middle_y = (x1 + x2) / 8, (y1 + y2) / 8
        row, column = int(middle_y), int(middle_x)
        outputs["heat"][0, 0, row, column] = score
        outputs["size"][0, :, row, column] = np.log([(y2 - y1) / 4, (x2 - x1) / 4])
        outputs["offset"][0, :, row, column] = [middle_y - row - 0.5, middle_x - column - 0.5]
        outputs["points"][0, 0::2, row, column] = (marks[:, 1] - y1) / (y2 - y1)
        outputs["points"][0, 1::2, row, column] = (marks[:, 0] - x1) / (x2 - x1)
    return outputs


def test_centerface_boxes_and_landmarks() -> None:
    first = (
        0.9,
        np.array([10.0, 21.0, 50.0, 77.0]),
        np.array([[20, 40], [40, 41], [30, 50], [22, 60], [38, 61]], float),
    )
    second = (
        0.5,
        np.array([70.0, 8.0, 90.0, 30.0]),
        np.array([[75, 15], [85, 15], [80, 20], [76, 25], [84, 25]], float),
    )
    weak = (0.3, np.array([100.0, 80.0, 120.0, 100.0]), np.zeros((5, 2)))
    found = CENTERFACE.candidates(centerface_outputs([first, second, weak], 32, 40), 128, 160, 0.4)
    order = np.argsort(-found.scores)
    np.testing.assert_allclose(found.scores[order], [0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[order], [first[1], second[1]], atol=1e-3)
    np.testing.assert_allclose(found.landmarks[order], [first[2], second[2]], atol=1e-3)


def test_no_face() -> None:
    found = suppress(CENTERFACE.candidates(centerface_outputs([], 8, 8), 32, 32, 0.4), 0.3)
    assert found.boxes.shape == (0, 4)
    assert found.landmarks.shape == (0, 5, 2)


def test_suppression_keeps_the_best_of_each_group() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 0, 40, 10], [0, 6, 10, 16], [5, 5, 5, 5]], float)
    scores = np.array([0.8, 0.9, 0.7, 0.6, 0.1])
    kept = suppress(Candidates(boxes, scores, np.zeros((5, 0, 2))), 0.3)
    # 0 overlaps 1 by 81/119; 3 overlaps 1 by 45/155; the empty box overlaps nothing.
    np.testing.assert_array_equal(kept.scores, [0.9, 0.7, 0.6, 0.1])


def test_ultra_light_finds_the_five_faces_of_the_2020_recording() -> None:
    recording = SHARED / "models" / "original_repository" / "recorded.npz"
    if not recording.is_file():
        pytest.skip("no recording of the 2020 model repository beside the checkout")
    with np.load(recording) as file:
        outputs = {name: file[f"tnn_face_detection.test_face.jpg.out.{name}"] for name in ("scores", "boxes")}
    found = suppress(UltraLight("scores", "boxes").candidates(outputs, 240, 320, 0.7), 0.3)
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    by_column = middles[np.argsort(middles[:, 0])]
    expected = [[74, 90], [115, 81], [147, 93], [201, 80], [265, 85]]
    np.testing.assert_allclose(by_column, expected, atol=6)


def test_ultra_light_counts_anchors_as_the_network_does() -> None:
    # 40*30*3 + 20*15*2 + 10*8*2 + 5*4*3
    assert len(UltraLight.anchors(240, 320)) == 4420
    assert len(UltraLight.anchors(200, 281)) == 3354
    assert len(UltraLight.anchors(120, 120)) == 847
    wrong = {"scores": np.ones((1, 9, 2, 1)), "boxes": np.ones((1, 9, 4, 1))}
    with pytest.raises(RequestError, match="do not match the anchors"):
        UltraLight("scores", "boxes").candidates(wrong, 240, 320, 0.5)


def model(*outputs: tuple[str, tuple[int, ...]]) -> ModelInfo:
    return ModelInfo("m", (), tuple(TensorInfo(name, "FP32", shape) for name, shape in outputs), 0)


def test_families_are_recognised_by_their_outputs() -> None:
    centerface = model(("a", (1, 1, -1, -1)), ("b", (1, 2, -1, -1)), ("c", (1, 2, -1, -1)), ("d", (1, 10, -1, -1)))
    assert detector_for(centerface) == CenterFace("a", "b", "c", "d")
    assert detector_for(model(("scores", (-1,)), ("boxes", (-1,)))) == UltraLight("scores", "boxes")
    with pytest.raises(RequestError, match="not a known face detector"):
        detector_for(model(("logits", (1, 1000))))


@pytest.mark.parametrize(
    ("size", "sent", "scale"),
    [
        ((768, 1024), (768, 1024), 1.0),
        ((120, 120), (128, 128), 1.0),
        ((1, 1), (32, 32), 1.0),
        ((500, 2000), (160, 640), 0.32),
    ],
)
def test_pictures_are_shrunk_and_padded(size: tuple[int, int], sent: tuple[int, int], scale: float) -> None:
    pixels = np.full((*size, 3), 200, np.uint8)
    got, factor = fitted(pixels, max_side=1024 if scale == 1 else 640, multiple=32)
    assert got.shape == (*sent, 3)
    assert factor == scale
    inner = (round(size[0] * scale), round(size[1] * scale))
    assert (got[: inner[0], : inner[1]] == 200).all()
    assert got.sum() == 200 * 3 * inner[0] * inner[1]
