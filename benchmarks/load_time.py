"""Load times in Python and until a server is ready, for the first and the second load.

    python benchmarks/load_time.py [--networks squeezenet_v1.1,resnet50] [--rounds 1]

The first load starts with an empty cache; the second one finds measurements and compiled networks in ``cache_dir``.
Each load in Python is a new process, whose start and imports are not counted. The server's time is from the command to
READY.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import networks
from machine import Samples
from results import Result, add_json, words
from server import ready, start_tnn_serving, wait_until

stderr = Console(stderr=True)

LOAD = """
import pathlib, sys, time
import tnn_serving
start = time.perf_counter()
tnn_serving.load(sys.argv[1], cache_dir=pathlib.Path(sys.argv[2]))
print((time.perf_counter() - start) * 1e3)
"""


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """Medians over the rounds."""

    network: str
    model_mb: float
    python_first_ms: float
    python_second_ms: float
    server_first_ms: float
    server_second_ms: float


def in_python(model: Path, cache: Path) -> float:
    """Milliseconds of ``tnn_serving.load`` in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(model), str(cache)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def in_server(repository: Path, name: str, cache: Path, log: Path) -> float:
    """Milliseconds from the command to READY."""
    start = time.perf_counter()
    server = start_tnn_serving(repository, log, [f"--backend-config=tnn,cache_dir={cache}"])
    try:
        wait_until(lambda: ready(server, name), server.processes, name)
        return (time.perf_counter() - start) * 1e3
    finally:
        server.end()


def measured(name: str, zoo: Path, rounds: int) -> LoadTimes:
    """Measures one network."""
    times = {
        "python first": Samples(),
        "python second": Samples(),
        "server first": Samples(),
        "server second": Samples(),
    }
    with tempfile.TemporaryDirectory(prefix="tnn-serving-load-time-") as temporary:
        folder = Path(temporary)
        repository = networks.write_repository(folder / "models", {name: networks.read(name, zoo)})
        model = repository / name / "1"
        for number in range(rounds):
            for turn in ("first", "second"):
                times[f"python {turn}"].add(in_python(model, folder / f"cache-python-{number}"))
                cache = folder / f"cache-server-{number}"
                times[f"server {turn}"].add(in_server(repository, name, cache, folder / "log"))
        size = (model / "model.tnnmodel").stat().st_size / 1e6
    return LoadTimes(name, size, *(samples.median for samples in times.values()))


def run(arguments: argparse.Namespace) -> Result:
    """Measures all networks."""
    result = Result.of("load_time", arguments)
    for name in arguments.networks or networks.zoo_names(arguments.zoo):
        result.add("load times", measured(name, arguments.zoo, arguments.rounds))
        stderr.print(f"{name} done", style="dim")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=words, help="by default all in the folder")
    parser.add_argument("--rounds", type=int, default=1)
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
