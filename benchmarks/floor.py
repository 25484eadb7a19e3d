"""The cost of the backend in addition to tritonserver's: a network of one cheap layer against an empty C backend.

    python benchmarks/floor.py [--rounds 5] [--seconds 1] [--connections 1,4,16] [--json out.json]

Needs a C compiler. The servers are put under load alternately, so that disturbances of the machine affect both, and
each is frozen while the other runs. Medians over the rounds are printed. CPU is the server's user and system time per
request. Load and servers share the cores: read the ratios, not the absolute figures.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

import networks
import tnn_serving as ts
import wire
from load import Load, measured
from machine import turns
from results import Result, Target, add_json, integers
from server import TnnServing, check_answer, start_tnn_serving, wait_until

HERE = Path(__file__).parent / "floor"
API = Path(ts.__file__).parent / "triton" / "backend"
TENSORS = {"16 B": (1, 1, 2, 2), "602,112 B": (1, 3, 224, 224)}
MODEL = "model"
CONFIG = """
backend: "{backend}"
max_batch_size: 64
dynamic_batching {{ }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
"""
RELU = b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n'

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of both servers; ``share`` is the median of the quotients of requests/s per round."""

    connections: int
    floor_rate: float
    tnn_rate: float
    share: float
    floor_p50_ms: float
    tnn_p50_ms: float
    floor_p99_ms: float
    tnn_p99_ms: float
    floor_cpu_us: float
    tnn_cpu_us: float


def build_floor(folder: Path) -> Path:
    """Compiles the empty backend; returns the backend directory."""
    library = folder / "backends" / "floor" / "libtriton_floor.so"
    library.parent.mkdir(parents=True)
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-fvisibility=hidden", f"-I{API}", "-o", str(library)]
    subprocess.run([*command, str(HERE / "floor.c")], check=True)
    return library.parent.parent


def start_floor(folder: Path) -> TnnServing:
    """A server with the empty backend."""
    model = folder / "models" / MODEL
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG.format(backend="floor"), encoding="utf-8")
    flags = [f"--backend-directory={build_floor(folder)}"]
    return start_tnn_serving(folder / "models", folder / "log", flags)


def start_relu(folder: Path) -> TnnServing:
    """Our server with a minimal network."""
    graph = ts.fill_random_weights(ts.read_model(RELU), name="relu")
    networks.write_repository(folder / "models", {MODEL: graph}, {MODEL: CONFIG.format(backend="tnn")})
    return start_tnn_serving(folder / "models", folder / "log")


def pairs(
    servers: Mapping[str, TnnServing], array: np.ndarray, connections: int, arguments: argparse.Namespace
) -> list[dict[str, tuple[Load, float]]]:
    """Load and CPU time per request of both servers, one entry per round."""
    found = []
    for order in turns(list(servers), arguments.rounds):
        found.append({})
        for name in order:
            request = wire.request("http", servers[name].http, MODEL, {"x": array})
            found[-1][name] = measured(request, servers[name].processes, connections, arguments.seconds)
    return found


def row(connections: int, rounds: list[dict[str, tuple[Load, float]]]) -> Row:
    """One row of the table."""

    def of(name: str) -> list[float]:
        done = [found[name] for found in rounds]
        loads = [load for load, _ in done]
        return [
            median(load.rate for load in loads),
            median(load.p50_ms for load in loads),
            median(load.p99_ms for load in loads),
            median(cpu_us for _, cpu_us in done),
        ]

    share = median(found["tnn"][0].rate / found["floor"][0].rate for found in rounds)
    (rate, p50, p99, cpu), (our_rate, our_p50, our_p99, our_cpu) = of("floor"), of("tnn")
    return Row(connections, rate, our_rate, share, p50, our_p50, p99, our_p99, cpu, our_cpu)


def run(arguments: argparse.Namespace) -> Result:
    """Measures both tensors at all numbers of connections."""
    result = Result.of("floor", arguments)
    with tempfile.TemporaryDirectory(prefix="tnn-serving-floor-") as temporary, ExitStack() as stack:
        servers = {}
        for name, start in (("floor", start_floor), ("tnn", start_relu)):
            (Path(temporary) / name).mkdir()
            servers[name] = start(Path(temporary) / name)
            stack.callback(servers[name].end)
        for name, server in servers.items():
            for shape in TENSORS.values():
                inputs = {"x": np.random.default_rng(0).random(shape, np.float32)}
                wait_until(partial(wire.answer, "http", server.http, MODEL, inputs), server.processes, name)
                check_answer(wire.answer("http", server.http, MODEL, inputs), inputs["x"], name)
            server.processes.freeze()
        for title, shape in TENSORS.items():
            array = np.random.default_rng(0).random(shape, np.float32)
            for connections in arguments.connections:
                made = row(connections, pairs(servers, array, connections, arguments))
                result.add(f"tensor of {title}", made)
                if connections == max(arguments.connections):
                    what = f"requests/s over the floor's, {connections} connections, tensor of {title}"
                    result.targets.append(Target(what, 0.9, made.share, at_least=True))
            stderr.print(f"tensor of {title} done", style="dim")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="loads per server and row")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one load")
    parser.add_argument("--connections", type=integers, default=[1, 4, 16])
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
