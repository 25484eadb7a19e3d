"""Triton's model configuration: what of it concerns us, completing it, and saying where it contradicts the model.

A configuration is the dict that Triton's ``config.pbtxt`` becomes in JSON. Completion fills only what is left out.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from tnn_serving.config.settings import Settings
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import ConfigError, located
from tnn_serving.pictures.fit import Fit

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
class Binding:
    """How one input of the configuration feeds the network."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    kind: Kind


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
