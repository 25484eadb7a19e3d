"""Configurations: what is read, what is completed, what contradicts the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tnn_serving.config.model_config import NUMPY_TYPE, TRITON_TYPE, bind_inputs, check_outputs, complete
from tnn_serving.config.parameters import PARAMETERS
from tnn_serving.config.settings import read_settings
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import ConfigError
from tnn_serving.pictures.fit import Fit

F32 = np.dtype(np.float32)
X = TensorSpec("x", F32, (None, 3, None, None))
PIXELS = TensorSpec("x", np.dtype(np.uint8), (None, None, None, 3))
Y = TensorSpec("y", F32, (None, 1000, 1, 1))


def config(input: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": "m", "input": input or [], "output": [], "parameters": {}, "max_batch_size": 0, **more}


def parameters(**values: str) -> dict[str, Any]:
    return {key.replace("__", "."): {"string_value": value} for key, value in values.items()}


def test_types_map_both_ways() -> None:
    assert {NUMPY_TYPE[name]: name for name in NUMPY_TYPE} == TRITON_TYPE


def test_everything_left_out_is_filled_in() -> None:
    done = complete(config(), inputs=[X], outputs=[Y], optional=[])
    assert done["backend"] == "tnn"
    assert done["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3, -1, -1]}]
    assert done["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 1000, 1, 1]}]


def test_what_is_there_stays() -> None:
    given = config(
        [{"name": "x", "data_type": "TYPE_FP32", "dims": [1, 3, 8, 8]}],
        output=[{"name": "y", "data_type": "TYPE_FP32", "dims": [1000]}],
    )
    done = complete(given, inputs=[X], outputs=[Y, TensorSpec("z", F32, (1,))], optional=[])
    assert done["input"] == given["input"]
    assert done["output"] == given["output"]


def test_dims_leave_out_the_batch_when_there_is_one() -> None:
    done = complete(config(max_batch_size=8), inputs=[X], outputs=[Y], optional=[])
    assert done["input"][0]["dims"] == [3, -1, -1]
    assert done["output"][0]["dims"] == [1000, 1, 1]


def test_a_scalar_is_shown_with_one_dim() -> None:
    done = complete(config(), inputs=[X], outputs=[TensorSpec("y", F32, ())], optional=[])
    assert done["output"][0]["dims"] == [1]


def test_inputs_with_a_stored_value_are_optional() -> None:
    done = complete(config(), inputs=[X, TensorSpec("h", F32, (1, 4))], outputs=[Y], optional=["h"])
    assert [item.get("optional", False) for item in done["input"]] == [False, True]


def test_pictures_are_read_in_tnns_terms() -> None:
    given = config(
        [{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}],
        parameters=parameters(scale="0.5,0.25,1", bias="-1", reverse_channel="true", resize="224,192"),
    )
    picture = read_settings(given).pictures["x"]
    assert picture.scale == (0.5, 0.25, 1.0)
    assert picture.bias == (-1.0,)
    assert picture.reverse_channel
    assert picture.fit == Fit(resize=(224, 192))


def test_the_way_to_the_size_is_read() -> None:
    given = config(
        [{"name": "x", "data_type": "TYPE_STRING", "dims": [1]}],
        parameters=parameters(
            resize="64,96", resize_mode="letterbox", interpolation="nearest", border="114, 0,7", max_pixels="1000"
        ),
    )
    picture = read_settings(given).pictures["x"]
    assert picture.fit == Fit((64, 96), "letterbox", "nearest", border=(114, 0, 7))
    assert picture.max_pixels == 1000
    cropped = config(given["input"], parameters=parameters(resize="256,256", resize_mode="cover", crop="224,192"))
    fit = read_settings(cropped).pictures["x"].fit
    assert fit == Fit((256, 256), "cover", crop=(224, 192))
    assert fit.size == (224, 192)


CONTRADICTIONS: dict[str, tuple[dict[str, str], tuple[str, str]]] = {
    "mode without size": ({"resize_mode": "cover"}, ("`resize_mode` cover", "`resize` none")),
    "interpolation without size": ({"interpolation": "nearest"}, ("`interpolation` nearest", "`resize` none")),
    "border of stretched": ({"resize": "8,8", "border": "1"}, ("`border` 1", "`resize_mode` stretch")),
    "border without size": ({"border": "1", "crop": "8,8"}, ("`border` 1", "`resize_mode` stretch")),
    "crop of letterbox": (
        {"resize": "8,8", "resize_mode": "letterbox", "crop": "4,4"},
        ("`crop` 4,4", "`resize_mode` letterbox"),
    ),
    "crop beyond size": ({"resize": "8,8", "crop": "9,4"}, ("`crop` 9,4", "`resize` 8,8")),
    "one input's": ({"x__resize": "8,8", "x__border": "9"}, ("`x.border` 9", "`resize_mode` stretch")),
    "one input's crop": ({"resize": "8,8", "x__crop": "9,4"}, ("`x.crop` 9,4", "`resize` 8,8")),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_parameters_that_contradict_each_other_are_both_named(what: str) -> None:
    values, told = CONTRADICTIONS[what]
    given = config([{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}], parameters=parameters(**values))
    with pytest.raises(ConfigError, match="do not go together") as error:
        read_settings(given)
    assert error.value.found == ", ".join(told)


def test_a_parameter_for_all_may_be_of_no_use_to_one() -> None:
    pictures = [{"name": name, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]} for name in ("a", "b")]
    values = parameters(resize="8,8", resize_mode="letterbox", border="9", b__resize_mode="stretch", a__resize="4,4")
    settings = read_settings(config(pictures, parameters=values))
    assert settings.pictures["a"].fit == Fit((4, 4), "letterbox", border=(9,))
    assert settings.pictures["b"].fit == Fit((8, 8), border=(9,))


FIXED = TensorSpec("x", np.dtype(np.uint8), (None, 8, 9, 3))


@pytest.mark.parametrize(("data_type", "dims"), [("TYPE_UINT8", [480, 640, 3]), ("TYPE_STRING", [1])])
def test_pictures_of_any_size_for_a_network_of_one(data_type: str, dims: list[int]) -> None:
    given = config([{"name": "x", "data_type": data_type, "dims": dims}], parameters=parameters(resize="8,9"))
    assert bind_inputs(given, [FIXED], read_settings(given))["x"].dims == tuple(dims)


@pytest.mark.parametrize("data_type", ["TYPE_UINT8", "TYPE_STRING"])
@pytest.mark.parametrize(("values", "said"), [({"resize": "9,9"}, "resize"), ({"crop": "8,8"}, "crop")])
def test_a_size_that_the_network_does_not_take(data_type: str, values: dict[str, str], said: str) -> None:
    dims = [1] if data_type == "TYPE_STRING" else [-1, -1, 3]
    given = config([{"name": "x", "data_type": data_type, "dims": dims}], parameters=parameters(**values))
    with pytest.raises(ConfigError, match=f"input `x`: `{said}` is not the size that the network takes: expected 8,9"):
        bind_inputs(given, [FIXED], read_settings(given))


def test_encoded_pictures_have_the_channels_of_pictures() -> None:
    given = config([{"name": "x", "data_type": "TYPE_STRING", "dims": [1]}])
    spec = TensorSpec("x", np.dtype(np.uint8), (None, None, None, 2))
    with pytest.raises(ConfigError, match="input `x`: encoded pictures have 1, 3 or 4 channels"):
        bind_inputs(given, [spec], read_settings(given))


def test_dims_of_encoded_pictures_are_filled_in() -> None:
    given = config([{"name": "x", "data_type": "TYPE_STRING"}], max_batch_size=4)
    assert complete(given, inputs=[PIXELS], outputs=[Y], optional=[])["input"][0]["dims"] == [1]


def test_a_parameter_for_one_input_wins() -> None:
    pictures = [{"name": name, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]} for name in ("a", "b")]
    settings = read_settings(config(pictures, parameters=parameters(scale="2", b__scale="3")))
    assert settings.pictures["a"].scale == (2.0,)
    assert settings.pictures["b"].scale == (3.0,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", "a"),
        ("bias", ""),
        ("reverse_channel", "maybe"),
        ("resize", "224"),
        ("resize", "0,5"),
        ("resize_mode", "contain"),
        ("interpolation", "cubic"),
        ("crop", "-1,5"),
        ("border", "256"),
        ("border", "red"),
        ("max_pixels", "0"),
        ("max_pixels", "178956971"),
        ("NUM_STREAMS", "-1"),
        ("INFERENCE_NUM_THREADS", "two"),
        ("precision", "f16"),
    ],
)
def test_unreadable_parameters_are_named(key: str, value: str) -> None:
    given = config(
        [{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}], parameters=parameters(**{key: value})
    )
    with pytest.raises(ConfigError) as error:
        read_settings(given)
    assert key in str(error.value) or value in str(error.value)


def test_a_parameter_of_an_input_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`z\.scale` names no picture input"):
        read_settings(config(parameters=parameters(z__scale="1")))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"name": "z", "data_type": "TYPE_FP32", "dims": [1]}, "no such input"),
        ({"name": "x", "data_type": "TYPE_INT32", "dims": [-1, 3, -1, -1]}, "expected TYPE_FP32, found TYPE_INT32"),
        ({"name": "x", "data_type": "TYPE_FP32", "dims": [3, -1, -1]}, "dims do not fit"),
        ({"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4, -1, -1]}, "dims do not fit"),
    ],
)
def test_contradictions_name_both_sides(item: dict[str, Any], said: str) -> None:
    given = config([item])
    with pytest.raises(ConfigError) as error:
        bind_inputs(given, [X], read_settings(given))
    assert said in str(error.value)
    assert "config.pbtxt, input" in str(error.value)


@pytest.mark.parametrize("dims", [[-1, -1, 3], [-1, -1, -1, 3], [1, 224, 224, 3]])
def test_pixels_come_with_or_without_a_batch(dims: list[int]) -> None:
    given = config([{"name": "x", "data_type": "TYPE_UINT8", "dims": dims}])
    assert bind_inputs(given, [PIXELS], read_settings(given))["x"].kind == "pixels"


def test_encoded_pictures_are_strings() -> None:
    given = config([{"name": "x", "data_type": "TYPE_STRING", "dims": [1]}])
    binding = bind_inputs(given, [PIXELS], read_settings(given))["x"]
    assert (binding.kind, binding.datatype) == ("encoded", "BYTES")


@pytest.mark.parametrize("dims", [[1000], [-1], [1, 1000, 1, 1], [-1, 1000]])
def test_output_dims_may_be_flattened(dims: list[int]) -> None:
    given = config(output=[{"name": "y", "data_type": "TYPE_FP32", "dims": dims}])
    check_outputs(given, {"y": TensorSpec("y", F32, (1, 1000, 1, 1))})


@pytest.mark.parametrize(
    "item",
    [
        {"name": "y", "data_type": "TYPE_FP32", "dims": [999]},
        {"name": "y", "data_type": "TYPE_INT32", "dims": [1000]},
    ],
)
def test_outputs_that_cannot_hold_the_blob_are_refused(item: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="output `y`"):
        check_outputs(config(output=[item]), {"y": TensorSpec("y", F32, (1, 1000, 1, 1))})


def test_every_parameter_reads_its_own_default() -> None:
    for parameter in PARAMETERS.values():
        parameter.read(parameter.default)
        assert parameter.doc[0].islower() or parameter.doc[0] == "`"


def test_a_named_output_is_completed() -> None:
    done = complete(config(output=[{"name": "y"}]), inputs=[X], outputs=[Y], optional=[])
    assert done["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 1000, 1, 1]}]


def test_a_misspelt_parameter_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    read_settings(config(parameters=parameters(scael="1")))
    assert "`scael` of config.pbtxt is not known; is `scale` meant?" in caplog.text
