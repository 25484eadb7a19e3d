"""The parameters of ``config.pbtxt`` that we understand: each is declared once, with how it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tnn_serving.choice import read_precision
from tnn_serving.config.plan import read_hint
from tnn_serving.emit.limits import memory_of_machine_bytes
from tnn_serving.errors import ConfigError
from tnn_serving.pictures.decode import MAX_PIXELS, PILLOWS_MAX_PIXELS
from tnn_serving.pictures.fit import ResizeMode
from tnn_serving.pictures.resize import Interp


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key of the ``parameters`` section that we understand.

    ``per_input`` ones may be written ``<input>.<key>`` for one input, or ``<key>`` for all picture inputs. Where
    ``operators`` ones stand on the server's command line, no model folder can say otherwise ("wins"), or none may speak
    of it at all ("only").
    """

    key: str
    doc: str
    default: str
    read: Callable[[str], Any]
    per_input: bool = False
    operators: Literal["", "wins", "only"] = ""


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.strip("[] ").split(","))


TRUE = ("true", "1", "yes")


def _truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError("expected true or false")


def _size(text: str) -> tuple[int, int] | None:
    if text.lower() == "none":
        return None
    height, width = (int(part) for part in text.replace("x", ",").split(","))
    if height < 1 or width < 1:
        raise ValueError("expected height,width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"expected at most {MAX_PIXELS} pixels")
    return height, width


def _count(text: str) -> int:
    number = 0 if text.upper() == "AUTO" else int(text)
    if number < 0:
        raise ValueError("expected a number that is not negative")
    return number


def _rows(text: str) -> int | None:
    return None if text == "auto" else _count(text)


UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def read_bytes(text: str) -> int:
    """A size in bytes, with or without a unit (of 1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.strip().upper())
    if match is None:
        raise ValueError("expected a size such as 512MB")
    unit = match[2] if match[2] in UNITS else match[2] + "B"
    return int(float(match[1]) * UNITS[unit])


def _shapes(text: str) -> tuple[dict[str, tuple[int, ...]], ...]:
    if text.lower() == "none":
        return ()
    found = []
    for combination in text.split(";"):
        one = {}
        for part in combination.split(","):
            name, equals, dims = part.strip().rpartition("=")
            if not equals:
                raise ValueError("expected NAME=1x3x224x224")
            one[name] = tuple(int(dim) for dim in dims.split("x"))
        found.append(one)
    return tuple(found)


def _folder(text: str) -> Path | None:
    return None if text.lower() == "none" else Path(text)


def _one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected one of {names}")
        return text

    return read


def _colour(text: str) -> tuple[int, ...]:
    colour = tuple(int(part) for part in text.strip("[] ").split(","))
    if not all(0 <= value <= 255 for value in colour):
        raise ValueError("expected bytes")
    return colour


def _pixel_limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= PILLOWS_MAX_PIXELS:
        raise ValueError("expected a limit that the decoder can keep")
    return number


def _memory(text: str) -> int:
    return memory_of_machine_bytes() if text.lower() == "auto" else read_bytes(text)


def _seconds(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise ValueError("expected seconds")
    return number or math.inf


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError("expected a number that is not negative")
    return number


PARAMETERS = {
    parameter.key: parameter
    for parameter in (
        Parameter("engine", "engine that runs the network: `auto`, `openvino` or `onnxruntime`", "auto", str),
        Parameter(
            "precision",
            "`f32`; `bf16` on CPUs that have it: faster, 0.4 to 2 % off; `auto`: `bf16` if measured to be faster by a "
            "tenth and at most 1 % off",
            "f32",
            read_precision,
        ),
        Parameter(
            "int8",
            "form of int8 layers: `exact` (TNN's codes), `fast` (int8 kernels), or `auto`: fast where that is safe",
            "auto",
            str,
        ),
        Parameter("raw_int8", "take and give int8 blobs as codes (`TYPE_INT8`) instead of float32", "false", _truth),
        Parameter("INFERENCE_NUM_THREADS", "inference threads; 0 for all that the process may use", "0", _count),
        Parameter(
            "NUM_STREAMS",
            "inferences side by side inside the engine; 0 or `AUTO`: one, or one an instance",
            "0",
            _count,
        ),
        Parameter(
            "PERFORMANCE_HINT",
            "`LATENCY`: all threads for one inference, or divided among the instances; `THROUGHPUT`: an inference a "
            "thread; `AUTO`: the first while few requests come, the second while many do",
            "AUTO",
            read_hint,
        ),
        Parameter(
            "max_joined_rows",
            "most rows of waiting requests that run as one inference; `auto` measures which number pays",
            "auto",
            _rows,
        ),
        Parameter("shape_cache_size", "shapes that are compiled for by themselves, the usual ones", "16", _count),
        Parameter("shape_cache_bytes", "memory for them in all, such as `512MB` or `2GB`", "1GB", read_bytes),
        Parameter(
            "warm_shapes",
            "shapes compiled for before the model is ready, such as `data=1x3x224x224; data=1x3x480x640`; several "
            "inputs of one are joined by `,`",
            "none",
            _shapes,
        ),
        Parameter(
            "cache_dir",
            "folder for what was measured and compiled, or `none`; for the server's command line only",
            "none",
            _folder,
            operators="only",
        ),
        Parameter("scale", "factor of each channel: one number, or one a channel", "1", _numbers, per_input=True),
        Parameter("bias", "added after `scale`: one number, or one a channel", "0", _numbers, per_input=True),
        Parameter(
            "reverse_channel", "swap the first and third channel of the pixels first", "false", _truth, per_input=True
        ),
        Parameter(
            "resize",
            "`height,width` that pictures are resized to, or `none`",
            "none",
            _size,
            True,
        ),
        Parameter(
            "resize_mode",
            "for other aspect ratios: `stretch`, `letterbox` (keeps all, adds a border) or `cover` (keeps the middle)",
            "stretch",
            _one_of(*get_args(ResizeMode)),
            True,
        ),
        Parameter(
            "interpolation",
            "between pixels when resizing: `linear` or `nearest`",
            "linear",
            _one_of(*get_args(Interp)),
            True,
        ),
        Parameter("crop", "`height,width` cut out of the middle after resizing, or `none`", "none", _size, True),
        Parameter(
            "border", "colour around letterboxed pictures, 0 to 255: one number, or one a channel", "0", _colour, True
        ),
        Parameter(
            "max_pixels",
            f"largest width x height of an encoded picture, at most {PILLOWS_MAX_PIXELS}",
            str(MAX_PIXELS),
            _pixel_limit,
            True,
        ),
        Parameter(
            "memory_limit_bytes",
            "most memory for weights and activations, by estimate, such as `2GB`; `auto`: all there is",
            "auto",
            _memory,
            operators="wins",
        ),
        Parameter(
            "load_timeout_s",
            "seconds after which translating a network is given up, looked at between layers; 0 for no limit",
            "120",
            _seconds,
            operators="wins",
        ),
        Parameter(
            "require_manifest", "refuse a model folder without a `SHA256SUMS`", "false", _truth, operators="wins"
        ),
        Parameter(
            "check_tolerance",
            "largest difference from `check.npz`, as a share of the output's largest value or of 1",
            "1e-3",
            _share,
        ),
    )
}
"""Every parameter of config.pbtxt that we understand; docs/serving.md is made from it."""


def read_parameter(key: str, text: str) -> Any:
    """The value of a parameter. Raises ConfigError."""
    parameter = PARAMETERS[key.rpartition(".")[2]]
    try:
        return parameter.read(text)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"parameter `{key}` cannot be read", expected=parameter.doc, found=text) from error


def text_of(config: Mapping[str, Any], key: str) -> str:
    """A parameter as it is written, or its default."""
    given = config.get("parameters", {}).get(key)
    return PARAMETERS[key].default if given is None else str(given.get("string_value", ""))


def check_operators(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a parameter of a model folder that only the server's command line may have: engines read
    and write a cache as their own."""
    for key in config.get("parameters", {}):
        if key in PARAMETERS and PARAMETERS[key].operators == "only":
            raise ConfigError(
                f"parameter `{key}` may not stand in config.pbtxt", hint=f"--backend-config=tnn,{key}=VALUE sets it"
            )


def with_defaults(config: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """A configuration with the parameters of the server's command line where it has none of its own, and against its
    own where they are the operator's to decide."""
    given = {key.replace("-", "_"): {"string_value": text} for key, text in options.items()}
    decided = {key: value for key, value in given.items() if key in PARAMETERS and PARAMETERS[key].operators}
    return {**config, "parameters": {**given, **config.get("parameters", {}), **decided}}
