"""Classification answers and request bodies."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tnn_serving.client import ModelInfo, Prediction, TensorInfo, request_body
from tnn_serving.client.classify import ranked
from tnn_serving.client.pixels import picture_tensor
from tnn_serving.errors import RequestError
from tnn_serving.pictures import decode


def test_scores_become_probabilities_of_all_classes() -> None:
    got = ranked(["2.000000:7:cat: the animal", "0.000000:1:dog", "-1.000000:0:car"])
    weights = np.exp([2, 0, -1])
    assert [p.label for p in got] == ["cat: the animal", "dog", "car"]
    assert [p.index for p in got] == [7, 1, 0]
    np.testing.assert_allclose([p.probability for p in got], weights / weights.sum())


def test_probabilities_stay_as_they_are() -> None:
    got = ranked(["0.250000:0", "0.750000:1"])
    assert got == [Prediction("", 1, 0.75, 0.75), Prediction("", 0, 0.25, 0.25)]


@pytest.mark.parametrize("entries", [["cat"], ["x:1:cat"], ["1.0:x:cat"]])
def test_other_answers_are_refused(entries: list[str]) -> None:
    with pytest.raises(RequestError, match="not a classification"):
        ranked(entries)


def model(datatype: str, *shape: int) -> ModelInfo:
    return ModelInfo("m", (TensorInfo("x", datatype, shape),), (), 0)


def test_the_batch_dim_is_added_where_the_model_has_one() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert picture_tensor(model("UINT8", -1, -1, 3), pixels)["x"].shape == (2, 4, 3)
    sent = picture_tensor(model("UINT8", -1, -1, -1, 3), pixels[..., ::-1])["x"]
    assert sent.shape == (1, 2, 4, 3)
    assert sent.flags.c_contiguous
    np.testing.assert_array_equal(sent[0], pixels[..., ::-1])


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(RequestError, match="another size"):
        picture_tensor(model("UINT8", 224, 224, 3), np.zeros((2, 4, 3), np.uint8))


@pytest.mark.parametrize("shape", [(1,), (-1, 1)])
def test_models_that_decode_get_a_file(shape: tuple[int, ...]) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    sent = picture_tensor(model("BYTES", *shape), pixels)["x"]
    assert sent.shape == (1,) * len(shape)
    np.testing.assert_array_equal(decode(sent.item()), pixels)


def test_a_body_holds_nested_pixels() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    body = json.loads(json.dumps(request_body("data", pixels)))
    assert body == {
        "inputs": [{"name": "data", "datatype": "UINT8", "shape": [1, 2, 3], "data": [[[1, 2, 3], [4, 5, 6]]]}]
    }
    assert request_body("data", pixels, batch=True)["inputs"][0]["shape"] == [1, 1, 2, 3]
