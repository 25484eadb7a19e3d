"""What a configuration leaves out is filled in from the network; what it says stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tnn_serving.config.completion import complete
from tnn_serving.config.model_config import ModelConfig, TensorConfig
from tnn_serving.config.text import read_config
from tnn_serving.engines import TensorSpec

F32 = np.dtype(np.float32)
X = TensorSpec("x", F32, (None, 3, None, None))
Y = TensorSpec("y", F32, (None, 1000, 1, 1))
RATE = TensorSpec("rate", np.dtype(np.int64), ())
ROWS = TensorSpec("rows", F32, (None,))


def completed(config: ModelConfig, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> ModelConfig:
    return complete(config, inputs=inputs, outputs=outputs, optional=[])


def test_everything_left_out_is_filled_in() -> None:
    done = completed(ModelConfig(), [X], [Y])
    assert done.backend == "tnn"
    assert done.input == (TensorConfig("x", "TYPE_FP32", (-1, 3, -1, -1)),)
    assert done.output == (TensorConfig("y", "TYPE_FP32", (-1, 1000, 1, 1)),)


def test_what_is_there_stays() -> None:
    given = ModelConfig(
        backend="tnn",
        input=(TensorConfig("x", "TYPE_FP32", (3, 8, 8), reshape=(1, 3, 8, 8)),),
        output=(TensorConfig("y", "TYPE_FP32", (1000,)),),
    )
    assert completed(given, [X], [Y, TensorSpec("z", F32, (1,))]) == given


def test_a_named_tensor_is_completed() -> None:
    given = ModelConfig(input=(TensorConfig("x"),), output=(TensorConfig("y"),))
    done = completed(given, [X], [Y])
    assert (done.input, done.output) == (
        completed(ModelConfig(), [X], [Y]).input,
        completed(ModelConfig(), [X], [Y]).output,
    )


def test_dims_leave_out_the_batch_when_there_is_one() -> None:
    done = completed(ModelConfig(max_batch_size=8), [X], [Y])
    assert done.input[0].dims == (3, -1, -1)
    assert done.output[0].dims == (1000, 1, 1)


def test_a_scalar_is_one_element() -> None:
    """Triton refuses an empty ``reshape`` where there is no batch, and has no tensor without dims."""
    done = completed(ModelConfig(), [X, RATE], [TensorSpec("y", F32, ())])
    for tensor in (done.input[1], done.output[0]):
        assert (tensor.dims, tensor.reshape) == ((1,), None)


def test_a_batch_of_scalars_is_reshaped() -> None:
    done = completed(ModelConfig(max_batch_size=4), [ROWS], [replace(ROWS, name="y")])
    for tensor in (*done.input, *done.output):
        assert (tensor.dims, tensor.reshape) == ((1,), ())
    named = ModelConfig(max_batch_size=4, input=(TensorConfig("rows", "TYPE_FP32"),))
    assert completed(named, [ROWS], []).input == done.input


def test_an_empty_reshape_without_a_batch_says_what_dims_say() -> None:
    """Triton would refuse it; the other way to write it means the same."""
    given = read_config("input { name: 'rate' data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } }")
    assert given.input[0].reshape == ()
    done = completed(given, [RATE], [])
    assert done.input == (TensorConfig("rate", "TYPE_INT64", (1,)),)
    assert "reshape" not in done.to_json()["input"][0]


def test_inputs_with_a_stored_value_are_optional() -> None:
    done = complete(ModelConfig(), inputs=[X, TensorSpec("h", F32, (1, 4))], outputs=[Y], optional=["h"])
    assert [tensor.optional for tensor in done.input] == [False, True]


def test_dims_of_encoded_pictures_are_filled_in() -> None:
    given = ModelConfig(max_batch_size=4, input=(TensorConfig("x", "TYPE_STRING"),))
    pixels = TensorSpec("x", np.dtype(np.uint8), (None, None, None, 3))
    assert completed(given, [pixels], [Y]).input[0].dims == (1,)


def test_what_triton_adds_to_a_sequence_is_no_input_of_clients() -> None:
    given = read_config("sequence_batching { control_input { name: 'rate' control { int32_false_true: [ 0, 1 ] } } }")
    assert [tensor.name for tensor in completed(given, [X, RATE], [Y]).input] == ["x"]


@pytest.mark.parametrize("batch", [0, 4])
def test_fields_that_are_not_used_here_survive(batch: int) -> None:
    given = read_config(f"max_batch_size: {batch} input {{ name: 'x' format: FORMAT_NCHW }} metric_tags {{ key: 'a' }}")
    done = completed(given, [X], [Y]).to_json()
    assert done["input"][0]["format"] == "FORMAT_NCHW"
    assert done["metric_tags"] == {"a": ""}
