"""Pictures as the tensors of requests."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.client.connection import ModelInfo, TensorInfo
from tnn_serving.client.pixels import picture_tensor
from tnn_serving.errors import RequestError
from tnn_serving.pictures.decode import decode


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
