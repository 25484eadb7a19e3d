"""Memory over many different input shapes, on both engines: it must not grow with their number.

    python benchmarks/shapes_memory.py [--shapes 1000] [--sides 32 300] [--proto FILE]

A network runs on inputs of ever new sizes, with the shape cache of a server: three convolutions, or a network from a
file with random weights. Each engine runs in its own process. After each fifth of the shapes, the process's memory
(PSS) and the mean time per inference are printed.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import time
from pathlib import Path

import numpy as np
import psutil

from tnn_serving.engines import Options
from tnn_serving.engines.shapes import ShapeLimits
from tnn_serving.errors import RequestError
from tnn_serving.formats.tnn import read_model
from tnn_serving.graph import Graph, Input
from tnn_serving.layers import make
from tnn_serving.model import Model
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.random_weights import fill_random_weights

ENGINES = ("openvino", "onnxruntime")
SIDES = (32, 300)
LAYERS = (
    ("Convolution", "c1", ["x"], ["a"], "1 3 16 3 3 2 2 1 1 1 -1 1 1 1"),
    ("Convolution", "c2", ["a"], ["b"], "1 16 32 3 3 1 1 1 1 1 -1 1 1 1"),
    ("Convolution", "c3", ["b"], ["y"], "1 32 8 1 1 1 1 0 0 1 -1 1 1 0"),
)


def convolutions() -> Graph:
    """Three convolutions: x [N, 3, H, W] -> y [N, 8, H/2, W/2]."""
    layers = [make(kind, name, inputs, outputs, tokens.split()) for kind, name, inputs, outputs, tokens in LAYERS]
    return fill_random_weights(Graph([Input("x", (1, 3, 64, 64))], ["y"], layers), name="convolutions")


def run(engine: str, proto: Path | None, count: int, limits: tuple[int, int]) -> None:
    """Prints the table of one engine."""
    graph = convolutions() if proto is None else fill_random_weights(read_model(proto))
    model = Model.of(TnnNetwork(graph), engine=engine, options=Options(), shapes=ShapeLimits())
    (name,) = model.default_shapes
    random = np.random.default_rng(0)
    sides = [(h, w) for h in range(*limits) for w in range(*limits)]
    chosen = random.choice(len(sides), count, replace=False)
    trim = ctypes.CDLL(None).malloc_trim
    label = "three convolutions" if proto is None else proto.stem
    start, refused = time.perf_counter(), 0
    for done, k in enumerate(chosen, 1):
        x = random.standard_normal((1, 3, *sides[k]), np.float32)
        try:
            model.run({name: x})
        except RequestError:
            refused += 1
        if done % (count // 5) == 0:
            per_shape_s = (time.perf_counter() - start) / (count // 5)
            before = psutil.Process().memory_full_info().pss
            trim(0)
            after = psutil.Process().memory_full_info().pss
            print(
                f"{label}, {engine}: {done:5} shapes, {before / 1e6:7.1f} MB, {after / 1e6:7.1f} MB after malloc_trim, "
                f"{per_shape_s * 1e3:.2f} ms each, {refused} refused",
                flush=True,
            )
            start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=1000)
    parser.add_argument("--sides", type=int, nargs=2, default=SIDES, help="smallest and largest height and width")
    parser.add_argument(
        "--proto", type=Path, help="a network with one input of 3 channels; by default three convolutions"
    )
    arguments = parser.parse_args()
    for engine in ENGINES:
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(engine, arguments.proto, arguments.shapes, arguments.sides)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
