"""What decides a compiled model: models are shared, and measurements kept, by what the settings' declarations say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tnn_serving.config.declaration import Reach
from tnn_serving.config.model_config import ModelConfig, TensorConfig
from tnn_serving.config.plan import plan
from tnn_serving.config.reading import try_settings
from tnn_serving.config.settings import SETTINGS, ModelSettings
from tnn_serving.engines.cpu import Cores
from tnn_serving.prepare.compiling import CompileRequest
from tnn_serving.prepare.configuring import Configured

OTHER = {
    "engine": "openvino",
    "precision": "bf16",
    "int8": "exact",
    "raw_int8": "true",
    "INFERENCE_NUM_THREADS": "1",
    "NUM_STREAMS": "2",
    "PERFORMANCE_HINT": "THROUGHPUT",
    "max_joined_rows": "3",
    "shape_cache_size": "5",
    "shape_cache_bytes": "1MB",
    "warm_shapes": "x=1x2",
    "cache_dir": "/somewhere",
    "scale": "2",
    "bias": "1",
    "reverse_channel": "true",
    "resize": "8,8",
    "resize_mode": "letterbox",
    "interpolation": "nearest",
    "crop": "4,4",
    "border": "9",
    "max_pixels": "99",
    "memory_limit_bytes": "1GB",
    "load_timeout_s": "7",
    "prepared_only": "true",
    "require_manifest": "true",
    "check_tolerance": "0.5",
}
"""A value of each setting that is not its default."""


def tried(texts: Mapping[str, str]) -> ModelSettings:
    """Settings of a picture input, whatever is wrong with them."""
    config = ModelConfig(input=(TensorConfig("x", "TYPE_UINT8", (-1, -1, 3)),), parameters=dict(texts))
    return try_settings(config, {})[0]


def request(settings: ModelSettings) -> CompileRequest:
    planned = plan(
        Cores(4, "all cores"), instances=1, threads=settings.threads, streams=settings.streams, hint=settings.hint
    )
    return CompileRequest.of(Configured(ModelConfig(), settings, {}, planned, ("y",), {"x": (1, 3, 8, 8)}))


def test_every_setting_has_another_value_here() -> None:
    assert OTHER.keys() == SETTINGS.keys()


@pytest.mark.parametrize("key", OTHER)
def test_a_declaration_decides_what_a_setting_changes(key: str) -> None:
    """Models are shared where their requests are equal, and measurements kept by the facts: a setting that changes
    what is compiled is part of both, and one that does not keeps neither apart."""
    one = SETTINGS[key]
    needed = {"resize": "16,16"} if key in ("resize_mode", "interpolation", "crop") else {}
    needed |= {"resize": "16,16", "resize_mode": "letterbox"} if key == "border" else {}
    plain, changed = tried(needed), tried({**needed, key: OTHER[key]})
    assert changed != plain
    before, after = request(plain), request(changed)
    assert (after.options != before.options) == (one.reach is Reach.ENGINE)
    assert (after.settings != before.settings) == (one.reach is Reach.MODEL)
    assert (after != before) == (hash(after) != hash(before)) == (one.reach is not Reach.SERVING)
    assert (changed.facts() != plain.facts()) == (one.reach is Reach.MODEL and one.measured)
