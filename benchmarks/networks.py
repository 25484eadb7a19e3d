"""The networks of the benchmarks: a tiny one, and those of TNN's own benchmark, with reproducible random weights."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

import tnn_serving as ts
from tnn_serving.graph import Graph
from tnn_serving.random_weights import network_name, random_input

TINY = "tiny"
TINY_PROTO = b"""\
"1 3 1 4206624770 ,"
"x 1 4 ,"
" x h y ,"
"y ,"
" 2 ,"
"InnerProduct fc 1 1 x h 4 1 0 1 ,"
"ReLU relu 1 1 h y ,"
"""
"""y = max(Wx + b, 0) on [1, 4] float32: 16 bytes in, 16 bytes out, some microseconds of an engine's time."""

ALIASES = {"squeezenet": "squeezenet_v1.1"}

ZOO = Path(__file__).resolve().parents[2] / "shared" / "models" / "zoo"


def add_zoo(parser: argparse.ArgumentParser) -> None:
    """The option ``--zoo``."""
    parser.add_argument(
        "--zoo",
        type=Path,
        default=ZOO,
        metavar="FOLDER",
        help="folder of TNN's benchmark networks, *NAME.tnnproto, as in benchmark/benchmark-model of TNN's sources",
    )


def zoo_names(zoo: Path) -> list[str]:
    """Names of all networks in the folder. Exits with a message if there are none."""
    names = sorted(network_name(str(path)) for path in zoo.glob("*.tnnproto"))
    if not names:
        raise SystemExit(f"no TNN networks in {zoo}; name a folder of *.tnnproto files with --zoo")
    return names


def read(name: str, zoo: Path, *, seed: int = 0) -> Graph:
    """The network of a name: ``tiny``, or one in the folder. Missing weights are random, by the seed."""
    if name == TINY:
        return made(TINY_PROTO, TINY)
    wanted = ALIASES.get(name, name)
    if wanted not in zoo_names(zoo):
        raise SystemExit(f"no network {wanted} in {zoo}; there are {', '.join(zoo_names(zoo))}")
    path = next(path for path in zoo.glob("*.tnnproto") if network_name(str(path)) == wanted)
    graph = ts.read_model(path)
    return graph if path.with_suffix(".tnnmodel").is_file() else ts.fill_random_weights(graph, seed=seed)


def made(proto: bytes, name: str) -> Graph:
    """A network from the text of its proto, with random weights that the name decides."""
    return ts.fill_random_weights(ts.read_model(proto), name=name)


def feeds(name: str, graph: Graph) -> dict[str, np.ndarray]:
    """Reproducible float32 inputs of the size in the proto."""
    return {item.name: random_input(name, item.dims) for item in graph.inputs}


def write_repository(
    folder: Path, graphs: Mapping[str, Graph], configs: Mapping[str, str] | None = None, versions: Sequence[int] = (1,)
) -> Path:
    """Writes ``folder/NAME/VERSION`` of each network, and its ``config.pbtxt`` if it has one; returns ``folder``."""
    for name, graph in graphs.items():
        for version in versions:
            files = folder / name / str(version)
            files.mkdir(parents=True)
            ts.write_model(graph, files / "proto.tnnproto", files / "model.tnnmodel")
        if configs and name in configs:
            (folder / name / "config.pbtxt").write_text(configs[name], encoding="utf-8")
    return folder


def write_onnx(folder: Path, graphs: Mapping[str, Graph]) -> Path:
    """Writes ``folder/NAME.onnx`` of each network, sizes free where the network allows; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        onnx.save(ts.to_onnx(graph), folder / f"{name}.onnx")
    return folder


def input_bytes(graph: Graph) -> int:
    """Bytes of the network's inputs at the size in the proto."""
    return sum(4 * math.prod(item.dims) for item in graph.inputs)
