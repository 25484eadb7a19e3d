"""What a configuration says to us, read and checked as far as that goes without the network."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnn_serving.choice import PrecisionChoice
from tnn_serving.config.parameters import PARAMETERS, read_parameter, text_of
from tnn_serving.config.plan import PerformanceHint
from tnn_serving.emit.limits import Limits
from tnn_serving.engines.shapes import ShapeLimits
from tnn_serving.errors import ConfigError
from tnn_serving.pictures.fit import Fit
from tnn_serving.translate.pictures import PictureInput

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Settings:
    """What a configuration says to us, read and checked as far as that goes without the network."""

    engine: str
    precision: PrecisionChoice
    threads: int
    streams: int
    hint: PerformanceHint
    cache_dir: Path | None
    int8: str
    raw_int8: bool
    pictures: dict[str, PictureInput]
    encoded: frozenset[str]
    max_batch_size: int
    max_joined_rows: int | None
    shapes: ShapeLimits
    warm_shapes: tuple[dict[str, tuple[int, ...]], ...]
    memory_limit_bytes: int
    check_tolerance: float


def limits_of(config: Mapping[str, Any]) -> Limits:
    """What a network may ask for, the time counted from now. Raises ConfigError."""
    memory, seconds = (read_parameter(key, text_of(config, key)) for key in ("memory_limit_bytes", "load_timeout_s"))
    return Limits(memory, time.monotonic() + seconds)


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a configuration.

    Raises:
        ConfigError: a parameter has a value that cannot be read, or a per-input one names no picture input.
    """
    given = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
    inputs = {item["name"]: item for item in config.get("input", [])}
    pictures = {name for name, item in inputs.items() if item.get("data_type") in ("TYPE_UINT8", "TYPE_STRING")}
    for key in given:
        prefix, dot, suffix = key.rpartition(".")
        if dot and suffix in PARAMETERS and PARAMETERS[suffix].per_input and prefix not in pictures:
            raise ConfigError(
                f"parameter `{key}` names no picture input",
                expected=", ".join(sorted(pictures)) or "an input of data_type TYPE_UINT8 or TYPE_STRING",
                found=prefix,
            )

    def value(key: str, name: str = "") -> Any:
        spelled = f"{name}.{key}" if f"{name}.{key}" in given else key
        return read_parameter(spelled, given.get(spelled, PARAMETERS[key].default))

    for key in given:
        if key.rpartition(".")[2] not in PARAMETERS:
            near = difflib.get_close_matches(key, PARAMETERS, 1)
            log.warning(
                "parameter `%s` of config.pbtxt is not known%s", key, f"; is `{near[0]}` meant?" if near else ""
            )
    fits = {
        name: Fit(
            resize=value("resize", name),
            mode=value("resize_mode", name),
            interpolation=value("interpolation", name),
            crop=value("crop", name),
            border=value("border", name),
        )
        for name in pictures
    }
    for name, fit in fits.items():
        _check_fit(name, fit, given)
    return Settings(
        engine=value("engine"),
        precision=value("precision"),
        threads=value("INFERENCE_NUM_THREADS"),
        streams=value("NUM_STREAMS"),
        hint=value("PERFORMANCE_HINT"),
        cache_dir=value("cache_dir"),
        int8=value("int8"),
        raw_int8=value("raw_int8"),
        pictures={
            name: PictureInput(
                scale=value("scale", name),
                bias=value("bias", name),
                reverse_channel=value("reverse_channel", name),
                fit=fits[name],
                max_pixels=value("max_pixels", name),
            )
            for name in pictures
        },
        encoded=frozenset(name for name in pictures if inputs[name]["data_type"] == "TYPE_STRING"),
        max_batch_size=int(config.get("max_batch_size", 0)),
        max_joined_rows=value("max_joined_rows"),
        shapes=ShapeLimits(value("shape_cache_size"), value("shape_cache_bytes")),
        warm_shapes=value("warm_shapes"),
        memory_limit_bytes=value("memory_limit_bytes"),
        check_tolerance=value("check_tolerance"),
    )


def _check_fit(name: str, fit: Fit, given: Mapping[str, str]) -> None:
    """Raises ConfigError for parameters of a picture input that contradict each other, or change nothing."""

    def spelled(key: str) -> str:
        return f"{name}.{key}" if f"{name}.{key}" in given else key

    def idle(key: str, other: str) -> bool:
        # What stands for all inputs may be of no use to one that has a setting of its own.
        return spelled(key) in given and not (spelled(key) == key and f"{name}.{other}" in given)

    def refuse(key: str, other: str, expected: str) -> None:
        found = [f"`{spelled(k)}` {given.get(spelled(k), PARAMETERS[k].default)}" for k in (key, other)]
        raise ConfigError(
            f"parameters `{spelled(key)}` and `{spelled(other)}` do not go together",
            expected=expected,
            found=", ".join(found),
        )

    for key in ("resize_mode", "interpolation"):
        if fit.resize is None and idle(key, "resize"):
            refuse(key, "resize", "a size to resize to")
    if fit.mode != "letterbox" and idle("border", "resize_mode"):
        refuse("border", "resize_mode", "`resize_mode` letterbox")
    if fit.crop is not None and fit.mode == "letterbox":
        refuse("crop", "resize_mode", "`resize_mode` stretch or cover")
    if fit.crop is not None and fit.resize is not None and (fit.crop[0] > fit.resize[0] or fit.crop[1] > fit.resize[1]):
        refuse("crop", "resize", "a crop within the size")
