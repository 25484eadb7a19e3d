"""Settings: how they are written, read, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.config.model_config import ModelConfig, TensorConfig
from tnn_serving.config.reading import read_settings, try_settings
from tnn_serving.config.settings import SETTINGS, ModelSettings, PictureSettings
from tnn_serving.errors import ConfigError
from tnn_serving.pictures.fit import Fit


def pixels(*names: str, data_type: str = "TYPE_UINT8") -> tuple[TensorConfig, ...]:
    return tuple(TensorConfig(name, data_type, (-1, -1, 3)) for name in names)


def settings(*inputs: TensorConfig, **parameters: str) -> ModelSettings:
    texts = {key.replace("__", "."): value for key, value in parameters.items()}
    return read_settings(ModelConfig(input=inputs, parameters=texts), {})


def picture(data_type: str = "TYPE_UINT8", **parameters: str) -> PictureSettings:
    found = settings(*pixels("x", data_type=data_type), **parameters).picture("x")
    assert found is not None
    return found


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_reads_its_own_default(key: str) -> None:
    one = SETTINGS[key]
    record = PictureSettings() if one.per_input else ModelSettings()
    assert one.value(one.default) == getattr(record, one.name)
    assert one.doc[0].islower() or one.doc[0] == "`"


# ---- reading ----


def test_pictures_are_read_in_tnns_terms() -> None:
    found = picture(scale="0.5,0.25,1", bias="-1", reverse_channel="true", resize="224,192")
    assert found.scale == found.conversion.scale == (0.5, 0.25, 1.0)
    assert found.bias == found.conversion.bias == (-1.0,)
    assert found.reverse_channel
    assert found.conversion.reverse_channel
    assert found.fit == Fit(resize=(224, 192))


def test_the_way_to_the_size_is_read() -> None:
    found = picture(
        "TYPE_STRING",
        resize="64,96",
        resize_mode="letterbox",
        interpolation="nearest",
        border="114, 0,7",
        max_pixels="1000",
    )
    assert found.fit == Fit((64, 96), "letterbox", "nearest", border=(114, 0, 7))
    assert found.max_pixels == 1000
    fit = picture("TYPE_STRING", resize="256,256", resize_mode="cover", crop="224,192").fit
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
    values, found = CONTRADICTIONS[what]
    with pytest.raises(ConfigError, match="do not go together") as error:
        picture(**values)
    assert error.value.found == ", ".join(found)


def test_a_parameter_for_all_may_be_of_no_use_to_one() -> None:
    found = settings(
        *pixels("a", "b"), resize="8,8", resize_mode="letterbox", border="9", b__resize_mode="stretch", a__resize="4,4"
    )
    fits = {name: one.fit for name, one in found.pictures}
    assert fits == {"a": Fit((4, 4), "letterbox", border=(9,)), "b": Fit((8, 8), border=(9,))}


def test_a_parameter_for_one_input_wins() -> None:
    found = settings(*pixels("a", "b"), scale="2", b__scale="3")
    assert {name: one.scale for name, one in found.pictures} == {"a": (2.0,), "b": (3.0,)}
    assert found.picture("c") is None


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
        ("PERFORMANCE_HINT", "CUMULATIVE_THROUGHPUT"),
        ("precision", "f16"),
        ("int8", "some"),
        ("warm_shapes", "1x3"),
        ("shape_cache_bytes", "much"),
        ("load_timeout_s", "-1"),
        ("check_tolerance", "inf"),
    ],
)
def test_unreadable_parameters_are_named(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        picture(**{key: value})
    assert error.value.problem == f"parameter `{key}` cannot be read"
    assert (error.value.expected, error.value.found) == (SETTINGS[key].doc, value)


def test_values_are_read_as_they_are_usually_written() -> None:
    found = settings(PERFORMANCE_HINT="throughput", NUM_STREAMS="AUTO", shape_cache_bytes="1.5MB", load_timeout_s="0")
    assert (found.hint, found.streams, found.shape_cache_bytes) == ("THROUGHPUT", 0, 3 << 19)
    assert found.load_timeout_s == found.limits().deadline_s == float("inf")
    assert settings(warm_shapes="a=1x2, b=3; a=4").warm_shapes == ((("a", (1, 2)), ("b", (3,))), (("a", (4,)),))


def test_everything_that_is_wrong_is_found_and_the_rest_is_read() -> None:
    texts = {
        "engine": "openvino",
        "NUM_STREAMS": "a",
        "x.crop": "9,9",
        "x.resize": "8,8",
        "z.scale": "1",
        "x.bias": "b",
    }
    found, problems = try_settings(ModelConfig(input=pixels("x"), parameters=texts), {})
    assert [problem.problem for problem in problems] == [
        "parameter `NUM_STREAMS` cannot be read",
        "parameter `z.scale` names no picture input",
        "parameter `x.bias` cannot be read",
        "parameters `x.crop` and `x.resize` do not go together",
    ]
    assert (found.engine, found.streams, found.picture("x")) == ("openvino", 0, PictureSettings())


def test_a_parameter_of_an_input_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`z\.scale` names no picture input"):
        settings(z__scale="1")


@pytest.mark.parametrize(
    ("key", "warning"),
    [("scael", "`scael` is not known: did you mean `scale`?"), ("x.engine", "`x.engine` is not known")],
)
def test_a_misspelt_parameter_is_warned_of(caplog: pytest.LogCaptureFixture, key: str, warning: str) -> None:
    read_settings(ModelConfig(input=pixels("x"), parameters={key: "1"}), {})
    assert warning in caplog.text


# ---- the server's command line ----


def test_the_command_line_has_the_defaults_of_all_models() -> None:
    options = {"engine": "openvino", "num-streams": "9", "NUM_STREAMS": "3", "cache-dir": "/c"}
    found = read_settings(ModelConfig(parameters={"engine": "onnxruntime"}), options)
    assert (found.engine, found.streams, found.cache_dir) == ("onnxruntime", 3, Path("/c"))


@pytest.mark.parametrize("key", [one.key for one in SETTINGS.values() if one.operators == "wins"])
def test_what_the_operator_decides_no_model_changes(key: str) -> None:
    model = ModelConfig(parameters={key: SETTINGS[key].default})
    text = {"memory_limit_bytes": "1GB", "load_timeout_s": "7", "require_manifest": "true"}[key]
    found = read_settings(model, {key: text})
    assert getattr(found, SETTINGS[key].name) == SETTINGS[key].value(text) != SETTINGS[key].value(SETTINGS[key].default)
    assert read_settings(model, {}) == ModelSettings()


def test_a_cache_is_for_the_operator_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"`cache_dir` is not allowed in config\.pbtxt .*--backend-config=tnn,cache_dir"
    ):
        settings(cache_dir="/tmp")
