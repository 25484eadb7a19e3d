"""Where configuration and network agree, and where they do not: both sides are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tnn_serving.config.binding import Binding, bind_inputs, check_outputs
from tnn_serving.config.model_config import ConfigDims, ModelConfig, TensorConfig
from tnn_serving.config.reading import read_settings
from tnn_serving.config.text import read_config
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import ConfigError

F32 = np.dtype(np.float32)
X = TensorSpec("x", F32, (None, 3, None, None))
PIXELS = TensorSpec("x", np.dtype(np.uint8), (None, None, None, 3))
FIXED = TensorSpec("x", np.dtype(np.uint8), (None, 8, 9, 3))


def x(
    data_type: str = "TYPE_FP32", dims: ConfigDims = (), reshape: ConfigDims | None = None, **more: Any
) -> TensorConfig:
    return TensorConfig("x", data_type, dims, reshape, **more)


def bound(tensor: TensorConfig, spec: TensorSpec, *, batch: int = 0, **parameters: str) -> Binding:
    config = ModelConfig(input=(tensor,), max_batch_size=batch, parameters=parameters)
    return bind_inputs(config, [spec], read_settings(config, {}))[tensor.name]


def checked(tensor: TensorConfig, shape: tuple[int | None, ...], *, batch: int = 0) -> None:
    config = ModelConfig(output=(tensor,), max_batch_size=batch)
    check_outputs(config, {"x": TensorSpec("x", F32, shape)})


# ---- names, types, dims ----


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (TensorConfig("z", "TYPE_FP32", (1,)), "no such input"),
        (x("TYPE_INT32", (-1, 3, -1, -1)), "expected TYPE_FP32, found TYPE_INT32"),
        (x(dims=(3, -1, -1)), r"dims do not fit the network: expected \[-1, 3, -1, -1\], found \[3, -1, -1\]"),
        (x(dims=(-1, 4, -1, -1)), "dims do not fit"),
        (x(dims=(0, 3, -1, -1)), r"`dims` has an impossible dim: expected positive numbers, or -1, found \[0, 3"),
        (x(dims=(-2, 3, -1, -1)), "impossible dim"),
        (x(dims=(-1, 3, -1, -1), is_shape_tensor=True), "is_shape_tensor is for TensorRT"),
    ],
)
def test_contradictions_name_both_sides(tensor: TensorConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"config.pbtxt, input `{tensor.name}`: .*{problem}"):
        bound(tensor, X)


def test_the_batch_is_not_part_of_dims() -> None:
    assert bound(x(dims=(3, -1, 8)), X, batch=4) == Binding("x", "FP32", (3, -1, 8), "tensor")
    with pytest.raises(ConfigError, match=r"dims do not fit the network \(the batch is not part of dims\)"):
        bound(x(dims=(-1, 3, -1, 8)), X, batch=4)


@pytest.mark.parametrize("dims", [(1000,), (-1,), (1, 1000, 1, 1), (-1, 1000)])
def test_output_dims_may_be_flattened(dims: ConfigDims) -> None:
    checked(x(dims=dims), (1, 1000, 1, 1))


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (x(dims=(999,)), "dims do not fit the network"),
        (x("TYPE_INT32", (1000,)), "expected TYPE_FP32, found TYPE_INT32"),
        (x(dims=(1000,), is_shape_tensor=True), "is_shape_tensor is for TensorRT"),
        (
            TensorConfig("xx", "TYPE_FP32", (1000,)),
            r"no such blob: expected a blob that a layer produces, found xx \(did you mean `x`",
        ),
    ],
)
def test_outputs_that_are_refused(tensor: TensorConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"config.pbtxt, output `{tensor.name}`: .*{problem}"):
        checked(tensor, (1, 1000, 1, 1))


# ---- reshape ----

RESHAPES: list[tuple[ConfigDims, ConfigDims, tuple[int | None, ...], int]] = [
    # dims, reshape, the network's shape, max_batch_size
    ((3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 4), 0),
    ((48,), (1, 3, 4, 4), (None, 3, None, 4), 0),
    ((2, 6), (12,), (None, 12), 8),
    ((2, 6), (3, 1, 4), (None, 3, None, 4), 8),
    ((-1, 3), (1, -1, 3), (1, None, 3), 0),
    ((2, 4, -1, 6), (8, -1, 1, 6), (None, 8, None, 1, 6), 8),
    ((-1, 2, -1), (-1, 1, 2, -1, 1), (None, 1, 2, None, 1), 0),
    ((1,), (), (None,), 8),
    ((1, 1), (), (None,), 8),
    ((1,), (1, 1), (1, 1), 0),
]


@pytest.mark.parametrize(("dims", "reshape", "shape", "batch"), RESHAPES)
def test_the_network_gets_the_reshaped_tensor(
    dims: ConfigDims, reshape: ConfigDims, shape: tuple[int | None, ...], batch: int
) -> None:
    assert bound(x(dims=dims, reshape=reshape), TensorSpec("x", F32, shape), batch=batch).shape == reshape
    checked(x(dims=dims, reshape=reshape), shape, batch=batch)


@pytest.mark.parametrize(
    ("dims", "reshape", "batch", "problem"),
    [
        (
            (3, 4),
            (4, 4),
            0,
            r"`dims` and `reshape` differ in the number of elements: expected \[3, 4\], found \[4, 4\]",
        ),
        ((3,), (), 8, "differ in the number of elements"),
        ((), (2,), 0, "differ in the number of elements"),
        ((-1, 3), (3,), 0, "differ in the number of free dims"),
        ((3,), (-1,), 0, "differ in the number of free dims"),
        ((-1, -1), (-1,), 0, "differ in the number of free dims"),
        ((-1, 6), (2, -1, 3), 0, "have other elements between their free dims"),
        ((2, -1, 6), (4, -1, 3), 0, "have other elements between their free dims"),
        ((4,), (0, 4), 0, "`reshape` has an impossible dim"),
        ((4,), (-3, 4), 0, "`reshape` has an impossible dim"),
        ((4,), (), 0, "`reshape` is empty, and Triton has no scalars without a batch"),
        ((4, 3), (12,), 0, r"`reshape` does not fit the network.*: expected \[-1, 3, -1, -1\], found \[12\]"),
        ((4, 3), (12,), 8, r"`reshape` does not fit the network \(.*\): expected \[3, -1, -1\], found \[12\]"),
    ],
)
def test_a_wrong_reshape_is_one_sentence(dims: ConfigDims, reshape: ConfigDims, batch: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"config.pbtxt, input `x`: .*{problem}"):
        bound(x(dims=dims, reshape=reshape), X, batch=batch)
    with pytest.raises(ConfigError, match=f"config.pbtxt, output `x`: .*{problem}"):
        checked(x(dims=dims, reshape=reshape), X.shape, batch=batch)


def test_a_scalar_takes_one_element() -> None:
    scalar = TensorSpec("x", F32, ())
    assert bound(x(dims=(1,)), scalar) == Binding("x", "FP32", (1,), "tensor", scalar=True)
    checked(x(dims=(1,)), ())
    for dims in ((2,), (1, 1), (-1,)):
        with pytest.raises(ConfigError, match=r"dims do not fit the network: expected \[\], found"):
            bound(x(dims=dims), scalar)
    with pytest.raises(ConfigError, match="takes a scalar, which has no batch: expected max_batch_size: 0"):
        bound(x(dims=(1,), reshape=()), scalar, batch=4)
    with pytest.raises(ConfigError, match="`reshape` does not fit the network"):
        checked(x(dims=(1,), reshape=()), (), batch=4)


def test_a_batch_of_scalars_needs_a_reshape() -> None:
    rows = TensorSpec("x", F32, (None,))
    assert bound(x(dims=(1,), reshape=()), rows, batch=4) == Binding("x", "FP32", (), "tensor")
    with pytest.raises(ConfigError, match=r"expected \[\], found \[1\] \(reshape \{ shape: \[ \] \}\)"):
        bound(x(dims=(1,)), rows, batch=4)


# ---- pictures ----


@pytest.mark.parametrize("dims", [(-1, -1, 3), (-1, -1, -1, 3), (1, 224, 224, 3)])
def test_pixels_come_with_or_without_a_batch(dims: ConfigDims) -> None:
    assert bound(x("TYPE_UINT8", dims), PIXELS).kind == "pixels"


def test_encoded_pictures_are_strings() -> None:
    assert bound(x("TYPE_STRING", (1,)), PIXELS) == Binding("x", "BYTES", (1,), "encoded")
    with pytest.raises(ConfigError, match=r"one per element: expected dims: \[ 1 \], found \[2\]"):
        bound(x("TYPE_STRING", (2,)), PIXELS)


@pytest.mark.parametrize(
    ("tensor", "batch", "shape"),
    [
        (x("TYPE_UINT8", (48, 3), (6, 8, 3)), 0, (6, 8, 3)),
        (x("TYPE_UINT8", (6, 8, 3), (1, 6, 8, 3)), 0, (1, 6, 8, 3)),
        (x("TYPE_UINT8", (144,), (6, 8, 3)), 4, (6, 8, 3)),
        (x("TYPE_STRING", (1, 1), (1,)), 0, (1,)),
        (x("TYPE_STRING", (1,), ()), 4, ()),
    ],
)
def test_pictures_may_be_reshaped(tensor: TensorConfig, batch: int, shape: ConfigDims) -> None:
    assert bound(tensor, PIXELS, batch=batch).shape == shape


def test_pictures_that_are_reshaped_to_something_else() -> None:
    with pytest.raises(ConfigError, match=r"`reshape` does not fit the network: expected \[-1, -1, -1, 3\]"):
        bound(x("TYPE_UINT8", (6, 8, 3), (3, 6, 8, 1)), PIXELS)


@pytest.mark.parametrize(("data_type", "dims"), [("TYPE_UINT8", (480, 640, 3)), ("TYPE_STRING", (1,))])
def test_pictures_of_any_size_for_a_network_of_one(data_type: str, dims: ConfigDims) -> None:
    assert bound(x(data_type, dims), FIXED, resize="8,9").shape == dims


@pytest.mark.parametrize("data_type", ["TYPE_UINT8", "TYPE_STRING"])
@pytest.mark.parametrize(("parameters", "setting"), [({"resize": "9,9"}, "resize"), ({"crop": "8,8"}, "crop")])
def test_a_size_that_the_network_does_not_take(data_type: str, parameters: dict[str, str], setting: str) -> None:
    dims = (1,) if data_type == "TYPE_STRING" else (-1, -1, 3)
    with pytest.raises(
        ConfigError, match=f"input `x`: `{setting}` is not the size that the network takes: expected 8,9"
    ):
        bound(x(data_type, dims), FIXED, **parameters)


def test_encoded_pictures_have_the_channels_of_pictures() -> None:
    spec = TensorSpec("x", np.dtype(np.uint8), (None, None, None, 2))
    with pytest.raises(ConfigError, match="input `x`: encoded pictures have 1, 3 or 4 channels"):
        bound(x("TYPE_STRING", (1,)), spec)


def test_a_border_has_the_channels_of_the_network() -> None:
    parameters = {"resize": "8,9", "resize_mode": "letterbox", "border": "1,2"}
    with pytest.raises(ConfigError, match="input `x`: `border` does not fit the network: expected 1 or 3 numbers"):
        bound(x("TYPE_UINT8", (-1, -1, 3)), FIXED, **parameters)


# ---- sequences ----


def control(spec: TensorSpec, *, batch: int, kind: str = "int32_false_true: [ 0, 1 ]") -> Binding:
    config = read_config(
        f"max_batch_size: {batch} sequence_batching {{ control_input {{ name: 'x' control {{ {kind} }} }} }}"
    )
    return bind_inputs(config, [spec], read_settings(config, {}))["x"]


@pytest.mark.parametrize(
    ("shape", "batch", "scalar"), [((), 0, True), ((1,), 0, False), ((None,), 4, True), ((None, 1), 4, False)]
)
def test_a_network_may_take_what_triton_adds_to_a_sequence(
    shape: tuple[int | None, ...], batch: int, scalar: bool
) -> None:
    spec = TensorSpec("x", np.dtype(np.int32), shape)
    assert control(spec, batch=batch) == Binding("x", "INT32", (1,), "tensor", scalar)


def test_a_network_that_takes_another_control() -> None:
    start = "config.pbtxt, control_input `x`: "
    with pytest.raises(
        ConfigError, match=f"{start}data type differs from the network's: expected TYPE_FP32, found TYPE_I"
    ):
        control(TensorSpec("x", F32, (1,)), batch=0)
    with pytest.raises(ConfigError, match=rf"{start}dims do not fit the network: expected \[1, 1\], found \[1\]"):
        control(TensorSpec("x", np.dtype(np.int32), (1, 1)), batch=0)
    with pytest.raises(ConfigError, match=f"{start}the network takes a scalar, which has no batch"):
        control(TensorSpec("x", np.dtype(np.uint64), ()), batch=4, kind="data_type: TYPE_UINT64")
