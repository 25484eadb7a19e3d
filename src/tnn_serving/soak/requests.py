"""The requests of a soak test: inputs of many valid shapes, and invalid requests that must be refused."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tnn_serving.client.connection import ModelInfo, TensorInfo
from tnn_serving.engines.shapes import ShapeLimits
from tnn_serving.pictures.encoding import PICTURE_FORMATS

SHAPES_TRIED = 150
"""Shapes that are tried per model with free dims."""

USUAL_SHAPES = ShapeLimits().count
"""How many shapes of a model come again and again: as many as the server compiles for."""

USUAL_SHARE = 0.9
"""Share of the requests that have one of them."""

SIDES = (32, 160)
"""Height and width of pictures: minimum, and exclusive maximum."""


@dataclass(frozen=True, slots=True)
class SoakModel:
    """A model, and input shapes that it accepts, the usual ones first."""

    info: ModelInfo
    shapes: list[dict[str, tuple[int, ...]]]

    @property
    def takes_files(self) -> bool:
        return any(item.datatype == "BYTES" for item in self.info.inputs)

    def inputs(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Random values of a random shape."""
        usual = random.random() < USUAL_SHARE
        shapes = self.shapes[:USUAL_SHAPES] if usual else self.shapes
        chosen = shapes[random.integers(len(shapes))]
        return {item.name: random_values(item, chosen[item.name], random) for item in needed(self.info)}


def needed(info: ModelInfo) -> list[TensorInfo]:
    """The required inputs."""
    return [item for item in info.inputs if not item.optional]


def find_shapes(module: Any, client: Any, info: ModelInfo, random: np.random.Generator) -> SoakModel:
    """Sends one request per candidate shape, and returns the shapes that the model accepts."""
    answered = []
    for shapes in _candidates(info, random):
        arrays = {item.name: random_values(item, shapes[item.name], random) for item in needed(info)}
        try:
            client.infer(info.name, infer_inputs(module, arrays))
        except InferenceServerException:
            continue
        answered.append(shapes)
    return SoakModel(info, answered)


def _candidates(info: ModelInfo, random: np.random.Generator) -> Iterator[dict[str, tuple[int, ...]]]:
    seen = set()
    for _ in range(SHAPES_TRIED):
        shapes = {item.name: _dims(item, random) for item in needed(info)}
        if tuple(shapes.values()) not in seen:
            seen.add(tuple(shapes.values()))
            yield shapes


def _dims(item: TensorInfo, random: np.random.Generator) -> tuple[int, ...]:
    """Random sizes for free dims. The last two dims, or those before the channels of pixels, are a picture's sides."""
    rank = len(item.shape)
    sides = range(rank - 3, rank - 1) if item.datatype == "UINT8" else range(rank - 2, rank)
    small = {k: 1 + int(random.integers(3)) for k in range(rank)}
    return tuple(
        (int(random.integers(*SIDES)) // 4 * 4 if k in sides and rank > 2 and item.datatype != "BYTES" else small[k])
        if dim < 0
        else dim
        for k, dim in enumerate(item.shape)
    )


def random_values(item: TensorInfo, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Random numbers, pixels or picture files."""
    if item.datatype == "BYTES":
        flat = np.array([picture_file(random) for _ in range(int(np.prod(shape)))], np.object_)
        return flat.reshape(shape)
    dtype = np.dtype(triton_to_np_dtype(item.datatype))
    if dtype.kind == "f":
        return random.standard_normal(shape, np.float32).astype(dtype)
    return random.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def picture_file(random: np.random.Generator) -> bytes:
    """A picture of a random size and file format."""
    height, width = random.integers(*SIDES, 2)
    file = io.BytesIO()
    pixels = np.broadcast_to(random.integers(0, 256, (height, 1, 3), np.uint8), (height, width, 3))
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, PICTURE_FORMATS[random.integers(len(PICTURE_FORMATS))])
    return file.getvalue()


def infer_inputs(module: Any, arrays: Mapping[str, np.ndarray]) -> list[Any]:
    """Inputs for a client; ``module`` is tritonclient.http or tritonclient.grpc."""
    from tritonclient.utils import np_to_triton_dtype

    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def invalid_request(target: SoakModel, random: np.random.Generator) -> tuple[str, dict[str, np.ndarray]]:
    """A random invalid request: a model name and inputs that must be refused."""
    arrays = target.inputs(random)
    name = next(iter(arrays))
    requests = [
        (f"{target.info.name}-unknown", arrays),
        (target.info.name, {f"{name}-unknown": arrays[name]}),
        (target.info.name, {name: np.zeros(arrays[name].shape, np.float64)}),
        (target.info.name, {name: arrays[name].reshape(1, 1, 1, 1, 1, -1)}),
    ]
    if target.takes_files:
        whole = picture_file(random)
        requests.append((target.info.name, {name: np.full(arrays[name].shape, whole[: len(whole) // 20], np.object_)}))
        requests.append((target.info.name, {name: np.full(arrays[name].shape, random.bytes(100), np.object_)}))
    return requests[random.integers(len(requests))]
