"""Input tensors for a model, made from its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tnn_serving.client.connection import ModelInfo, TensorInfo
from tnn_serving.errors import FormatError, RequestError, located
from tnn_serving.formats.reading import FileKind, read_file
from tnn_serving.nearest import did_you_mean, listed
from tnn_serving.network.formats import open_network
from tnn_serving.prepare.recorded_case import read_arrays

DATA = FileKind("a request", RequestError, 2**31 - 1, "protobuf and gRPC carry no more")


def make_inputs(
    model: ModelInfo,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    data: Path | None = None,
    batch: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """An array for each required input of a model: random, or from a file.

    Args:
        shapes: dims by input; the batch dim of a batched model may be left out.
        data: an .npz file with an array per input. For a model whose only input takes encoded files (BYTES): the file
            to send.
        batch: size of the first dim, where it is free.
        seed: of the random numbers: normally distributed for floats, 0 or 1 for integers, all values for UINT8.

    Raises:
        RequestError: an input's dims are unknown, do not fit, or its type cannot be generated; or ``data`` cannot be
            read.
    """
    needed = [item for item in model.inputs if not item.optional or item.name in (shapes or {})]
    unknown = set(shapes or {}) - {item.name for item in model.inputs}
    if unknown:
        known, name = [item.name for item in model.inputs], min(unknown)
        raise RequestError(
            f"model `{model.name}` has no input `{name}`", expected=listed(known), hint=did_you_mean(name, known)
        )
    if data is not None:
        made = _from_file(data, needed, model, batch)
    else:
        random = np.random.default_rng(seed)
        dims = {item.name: _dims(item, model, (shapes or {}).get(item.name), batch) for item in needed}
        made = {item.name: _random(random, item, dims[item.name]) for item in needed}
    if batch > 1 and not any(array.shape[:1] == (batch,) for array in made.values()):
        raise RequestError(
            f"model `{model.name}` does not take a batch of {batch}",
            expected=f"an input whose first dim is free or {batch}",
            found=", ".join(f"{name} {list(array.shape)}" for name, array in made.items()),
        )
    return made


def file_shapes(info: ModelInfo, model: Path, batch: int) -> dict[str, Sequence[int]]:
    """The shapes in a model's files, for inputs whose dims are free on the server."""
    try:
        known: Mapping[str, Sequence[int]] = open_network(model).default_shapes
    except FormatError:
        return {}  # a model of another backend
    shapes: dict[str, Sequence[int]] = {}
    for item in info.inputs:
        dims = known.get(item.name)
        if dims is None or item.optional:
            continue
        if item.datatype == "UINT8" and len(dims) == 4 and len(item.shape) in (3, 4):
            n, c, h, w = dims
            dims = (h, w, c) if len(item.shape) == 3 else (n, h, w, c)
        if len(dims) != len(item.shape):
            continue
        free = [want == -1 for want in item.shape]
        wanted = [batch if k == 0 and batch > 1 else have for k, have in enumerate(dims)]
        shapes[item.name] = [have if f else want for f, have, want in zip(free, wanted, item.shape, strict=True)]
    return shapes


def _dims(item: TensorInfo, model: ModelInfo, given: Sequence[int] | None, batch: int) -> tuple[int, ...]:
    wanted = list(item.shape)
    if given is None:
        dims = [batch, *wanted[1:]] if wanted and wanted[0] == -1 else wanted
    else:
        batched = model.max_batch_size > 0 and len(given) == len(wanted) - 1
        dims = [batch, *given] if batched else list(given)
    if -1 in dims:
        raise RequestError(
            f"input `{item.name}` has free dims",
            expected=f"their sizes, with --shape {item.name}=" + "x".join("?" if d == -1 else str(d) for d in dims),
            found=wanted,
        )
    if len(dims) != len(wanted) or any(want not in (-1, have) for want, have in zip(wanted, dims, strict=True)):
        raise RequestError(f"input `{item.name}` has another shape", expected=wanted, found=dims)
    return tuple(dims)


def _random(random: np.random.Generator, item: TensorInfo, dims: tuple[int, ...]) -> np.ndarray:
    from tritonclient.utils import triton_to_np_dtype  # imported where needed, as in connection.py

    if item.datatype in ("BYTES", "BF16"):
        raise RequestError(
            f"input `{item.name}` takes {item.datatype}, which cannot be generated",
            expected="a file with --data: a picture, or an .npz with arrays",
        )
    dtype = np.dtype(triton_to_np_dtype(item.datatype))
    if dtype.kind == "f":
        return random.standard_normal(dims, np.float32).astype(dtype)
    return random.integers(0, 256 if dtype == np.uint8 else 2, dims).astype(dtype)


def _from_file(path: Path, needed: Sequence[TensorInfo], model: ModelInfo, batch: int) -> dict[str, np.ndarray]:
    with located(str(path)):
        if path.suffix != ".npz":
            content = read_file(path, DATA)
            if len(needed) != 1 or needed[0].datatype != "BYTES":
                raise RequestError(
                    f"model `{model.name}` does not take one encoded file",
                    expected="an .npz with an array for each of " + ", ".join(item.name for item in needed),
                )
            (item,) = needed
            count = [batch, *(1 if dim == -1 else dim for dim in item.shape[1:])] if len(item.shape) > 1 else [batch]
            return {item.name: np.full(count, content, np.object_)}
        arrays = _arrays(path)
        missing = [item.name for item in needed if item.name not in arrays]
        if missing:
            raise RequestError(f"there is no array `{missing[0]}`", found=", ".join(arrays) or "none")
        return {item.name: _converted(item, arrays[item.name]) for item in needed}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name; the inputs of a recording are named ``in.NAME``."""
    try:
        arrays = read_arrays(path)
    except FormatError as error:
        raise RequestError("data cannot be read", found=error) from error
    return {name.removeprefix("in."): array for name, array in arrays.items() if not name.startswith("out.")}


def _converted(item: TensorInfo, array: np.ndarray) -> np.ndarray:
    from tritonclient.utils import triton_to_np_dtype

    dtype = np.dtype(triton_to_np_dtype(item.datatype))
    if dtype.kind == "O" or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise RequestError(f"array `{item.name}` has another type", expected=item.datatype, found=array.dtype)
    return np.ascontiguousarray(array, dtype)
