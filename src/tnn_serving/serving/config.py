"""Triton's model configuration: what of it concerns us, completing it, and saying where it contradicts the model.

A configuration is the dict that Triton's ``config.pbtxt`` becomes in JSON. Completion fills only what is left out.
"""

from __future__ import annotations

import copy
import difflib
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from tnn_serving.choice import PrecisionChoice, read_precision
from tnn_serving.engines import TensorSpec
from tnn_serving.engines.shapes import ShapeLimits
from tnn_serving.errors import ConfigError, located
from tnn_serving.pictures.decode import MAX_PIXELS, PILLOWS_MAX_PIXELS
from tnn_serving.pictures.fit import Fit, ResizeMode
from tnn_serving.pictures.resize import Interp
from tnn_serving.serving.plan import PerformanceHint, read_hint
from tnn_serving.translate.limits import Limits, memory_of_machine_bytes
from tnn_serving.translate.pictures import PictureInput

log = logging.getLogger(__name__)

BACKEND = "tnn"
CONFIG_FILE = "config.pbtxt"

TRITON_TYPE: dict[np.dtype, str] = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.float64): "FP64",
    np.dtype(np.int8): "INT8",
    np.dtype(np.int16): "INT16",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.uint16): "UINT16",
    np.dtype(np.uint32): "UINT32",
    np.dtype(np.uint64): "UINT64",
    np.dtype(np.bool_): "BOOL",
}
"""Triton's names of element types; in a configuration they have the prefix ``TYPE_``."""

NUMPY_TYPE: dict[str, np.dtype] = {name: dtype for dtype, name in TRITON_TYPE.items()}

Kind = Literal["tensor", "pixels", "encoded"]


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
            "thread",
            "LATENCY",
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
            "most memory for weights and activations together, as estimated at load and for each new shape, such as "
            "`2GB`; `auto` is what the machine or container has",
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


@dataclass(frozen=True, slots=True)
class Binding:
    """How one input of the configuration feeds the network."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    kind: Kind


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


_TOKEN = re.compile(
    r"""\#[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [{}\[\]<>] | (?P<field>[A-Za-z_]\w*)\s*(?=[:{<\[])""",
    re.VERBOSE,
)


def top_level_fields(text: str) -> set[str]:
    """The names of the fields that a protobuf text (config.pbtxt) sets at its top level."""
    fields = set()
    depth = 0
    for token in _TOKEN.finditer(text):
        if token["field"] and depth == 0:
            fields.add(token["field"])
        elif token[0] in ("{", "[", "<"):
            depth += 1
        elif token[0] in ("}", "]", ">"):
            depth -= 1
    return fields


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


def complete(
    config: Mapping[str, Any],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    optional: Sequence[str],
) -> dict[str, Any]:
    """A copy of ``config`` in which inputs and outputs that were left out are filled in.

    Args:
        inputs, outputs: of the network as it runs, batch dim included.
        optional: inputs that have a stored value.
    """
    done = copy.deepcopy(dict(config))
    batched = int(done.get("max_batch_size", 0)) > 0
    done["backend"] = done.get("backend") or BACKEND
    for section, specs in (("input", inputs), ("output", outputs)):
        given = list(done.get(section, []))
        names = {item.get("name") for item in given}
        # A list of outputs is a choice; one of inputs that lacks some is not.
        missing = [] if section == "output" and given else [spec for spec in specs if spec.name not in names]
        for spec in missing:
            made: dict[str, Any] = {
                "name": spec.name,
                "data_type": f"TYPE_{TRITON_TYPE[spec.dtype]}",
                "dims": _config_dims(spec.shape, batched),
            }
            if section == "input" and spec.name in optional:
                made["optional"] = True
            if section == "input" and not spec.shape:
                made["reshape"] = {"shape": []}
            given.append(made)
        for item in given:
            known = next((s for s in specs if s.name == item["name"]), None)
            if known is not None and item.get("data_type", "TYPE_INVALID") == "TYPE_INVALID":
                item["data_type"] = f"TYPE_{TRITON_TYPE[known.dtype]}"
            if known is not None and not item.get("dims"):
                encoded = item.get("data_type") == "TYPE_STRING"
                item["dims"] = [1] if encoded else _config_dims(known.shape, batched)
        done[section] = given
    return done


def _config_dims(shape: Sequence[int | None], batched: bool) -> list[int]:
    dims = [-1 if dim is None else dim for dim in shape]
    # Triton knows no tensor without dims; a scalar is shown as [1].
    return (dims[1:] if batched else dims) or [1]


def bind_inputs(config: Mapping[str, Any], inputs: Sequence[TensorSpec], settings: Settings) -> dict[str, Binding]:
    """Pairs the configuration's inputs with the network's.

    Raises:
        ConfigError: a name, type or rank on which configuration and network disagree; both sides are named.
    """
    network = {spec.name: spec for spec in inputs}
    bound = {}
    for item in config.get("input", []):
        name = item["name"]
        with located(f"config.pbtxt, input `{name}`"):
            spec = network.get(name)
            if spec is None:
                raise ConfigError("the network has no such input", expected=", ".join(network) or "none", found=name)
            kind: Kind = "encoded" if name in settings.encoded else "pixels" if name in settings.pictures else "tensor"
            datatype = str(item["data_type"]).removeprefix("TYPE_")
            dims = tuple(int(dim) for dim in item.get("reshape", item)["shape" if "reshape" in item else "dims"])
            dims = tuple(int(dim) for dim in item["dims"])
            if kind != "tensor":
                spec = _request_spec(spec, kind, settings.pictures[name].fit)
            _check_dims(spec, kind, datatype, dims, settings.max_batch_size > 0)
            bound[name] = Binding(name, "BYTES" if datatype == "STRING" else datatype, dims, kind)
    return bound


def _request_spec(spec: TensorSpec, kind: Kind, fit: Fit) -> TensorSpec:
    """What requests may send for a picture input [N, H, W, C]: any size, if pictures are brought to one.

    Raises:
        ConfigError: that size is not the network's, or encoded pictures have no such channels.
    """
    batch, height, width, channels = spec.shape
    if kind == "encoded" and channels not in (1, 3, 4):
        raise ConfigError("encoded pictures have 1, 3 or 4 channels", expected=f"TYPE_UINT8 for {channels} channels")
    if fit.size is None:
        return spec
    if any(want not in (None, have) for want, have in zip((height, width), fit.size, strict=True)):
        raise ConfigError(
            f"`{'crop' if fit.crop else 'resize'}` is not the size that the network takes",
            expected=f"{height},{width}".replace("None", "any"),
            found=f"{fit.size[0]},{fit.size[1]}",
        )
    return replace(spec, shape=(batch, None, None, channels))


def _check_dims(spec: TensorSpec, kind: Kind, datatype: str, dims: tuple[int, ...], batched: bool) -> None:
    if kind == "encoded":
        if dims not in ((1,), (-1,)):
            raise ConfigError("encoded pictures come one an element", expected="dims: [ 1 ]", found=list(dims))
        return
    if datatype != TRITON_TYPE[spec.dtype]:
        raise ConfigError(
            "data type differs from the network's", expected=f"TYPE_{TRITON_TYPE[spec.dtype]}", found=f"TYPE_{datatype}"
        )
    wanted = spec.shape[1:] if batched or (kind == "pixels" and len(dims) == len(spec.shape) - 1) else spec.shape
    if len(dims) != len(wanted) or any(
        want is not None and have not in (-1, want) for want, have in zip(wanted, dims, strict=True)
    ):
        raise ConfigError(
            "dims do not fit the network" + (" (the batch is not part of dims)" if batched else ""),
            expected=[-1 if d is None else d for d in wanted],
            found=list(dims),
        )


def check_outputs(config: Mapping[str, Any], outputs: Mapping[str, TensorSpec]) -> None:
    """Compares the configuration's outputs with the blobs they name.

    Dims may be written without the batch, or flattened: the answer always carries the blob's own shape.

    Raises:
        ConfigError: another type, or dims that cannot hold the blob's elements.
    """
    for item in config.get("output", []):
        name = str(item["name"])
        if name not in outputs:
            near = difflib.get_close_matches(name, outputs, 3)
            raise ConfigError(
                f"config.pbtxt, output `{name}`: the network has no such blob",
                expected=", ".join(near) or "a blob that a layer produces",
            )
        spec = outputs[name]
        label = PurePosixPath(str(item.get("label_filename", "")))
        if label.is_absolute() or ".." in label.parts:
            # Triton would read any file of the machine, and hand out its lines as class names.
            raise ConfigError(
                f"config.pbtxt, output `{name}`: label_filename leads out of the model folder", found=str(label)
            )
        with located(f"config.pbtxt, output `{spec.name}`"):
            datatype = str(item["data_type"]).removeprefix("TYPE_")
            if datatype != TRITON_TYPE[spec.dtype]:
                raise ConfigError(
                    "data type differs from the network's",
                    expected=f"TYPE_{TRITON_TYPE[spec.dtype]}",
                    found=f"TYPE_{datatype}",
                )
            dims = [int(dim) for dim in item["dims"]]
            known = [dim for dim in spec.shape if dim is not None]
            free = len(known) < len(spec.shape)
            if -1 not in dims and not free and math.prod(dims) != math.prod(known):
                raise ConfigError("dims do not fit the network", expected=known, found=dims)
