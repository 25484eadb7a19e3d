"""What the backend adds to tritonserver itself: a network of one cheap layer against an empty backend written in C.

    python benchmarks/floor.py [--rounds 5] [--seconds 1] [--connections 1,4,16] [--json out.json]

Needs ``wrk`` (Debian: ``apt-get install wrk``) and a C compiler. Both servers run at the same time and are loaded in
turn, a round each, so that a change of the machine's mood meets both; medians over the rounds are printed. CPU is the
server's user and system time for one request. Load and servers share the cores: read the ratios, not the absolutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tritonclient.http
from rich.console import Console
from rich.table import Table

import tnn_serving as ts
from tnn_serving.graph import Graph
from tnn_serving.triton.launch import BACKENDS, prepare

HERE = Path(__file__).parent / "floor"
API = Path(ts.__file__).parent / "triton" / "backend"
TENSORS = {"16 B": (1, 1, 2, 2), "602,112 B": (1, 3, 224, 224)}
CONFIG = """
backend: "{backend}"
max_batch_size: 64
dynamic_batching {{ }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
"""
RELU = b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n'


@dataclass(frozen=True)
class Round:
    """One load of one server."""

    requests_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True)
class Row:
    """Medians of both servers, and the backend's share of the floor's throughput."""

    tensor: str
    connections: int
    floor: Round
    tnn: Round
    throughput_ratio: float
    cpu_added_us: float


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def serve(folder: Path, backends: Path, backend: str, version: Path | None) -> Iterator[Server]:
    """A running server of one model with backend ``backend``, whose version folder is copied from ``version``."""
    model = folder / backend / "model"
    model.mkdir(parents=True)
    if version is None:
        (model / "1").mkdir()
    else:
        shutil.copytree(version, model / "1")
    (model / "config.pbtxt").write_text(CONFIG.format(backend=backend))
    port = free_port()
    flags = [f"--backend-directory={backends}", "--allow-metrics=false", "--allow-grpc=false"]
    launch = prepare([str(model.parent)], http_port=port, exit_timeout_s=3, flags=flags)
    with (folder / f"{backend}.log").open("wb") as log:
        process = subprocess.Popen(launch.command, env=dict(launch.environment), stdout=log, stderr=log)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/v2/models/model/ready", folder / f"{backend}.log")
        yield Server(process, port)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    errors = [line for line in log.read_text().splitlines() if line.startswith("E")]
    sys.exit("the server did not become ready:\n" + "\n".join(errors or [str(log)]))


def build_floor(folder: Path) -> Path:
    """Compiles the empty backend; returns the backend directory."""
    library = folder / "backends" / "floor" / "libtriton_floor.so"
    library.parent.mkdir(parents=True)
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-fvisibility=hidden", f"-I{API}", "-o", str(library)]
    subprocess.run([*command, str(HERE / "floor.c")], check=True)
    return library.parent.parent


def write_network(folder: Path) -> Path:
    folder.mkdir()
    graph: Graph = ts.read_model(RELU, bytes.fromhex("0200bcfa00000000"))
    ts.write_model(graph, folder / "relu.tnnproto", folder / "relu.tnnmodel")
    return folder


def check(server: Server, shape: tuple[int, ...]) -> None:
    """Both servers give back a tensor of numbers that are not negative."""
    x = np.random.default_rng(0).random(shape, np.float32)
    tensor = tritonclient.http.InferInput("x", list(shape), "FP32")
    tensor.set_data_from_numpy(x)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        np.testing.assert_array_equal(client.infer("model", [tensor]).as_numpy("y"), x)


def body(shape: tuple[int, ...]) -> tuple[bytes, int]:
    """A request, and how many bytes of it are JSON."""
    x = np.random.default_rng(0).random(shape, np.float32)
    parameters = {"binary_data_size": x.nbytes}
    described = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": parameters}
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [described], "outputs": [wanted]}).encode()
    return header + x.tobytes(), len(header)


def load(server: Server, file: Path, header_bytes: int, connections: int, seconds: float) -> Round:
    environment = {**os.environ, "FLOOR_BODY": str(file), "FLOOR_HEADER_BYTES": str(header_bytes)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=20s", "-s", str(HERE / "post.lua")]
    before = server.cpu_s()
    url = f"http://127.0.0.1:{server.port}/v2/models/model/infer"
    done = subprocess.run([*command, url], env=environment, capture_output=True, text=True, check=True)
    cpu_s = server.cpu_s() - before
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    if measured["failed"] or not measured["requests"]:
        sys.exit(f"requests failed: {measured}")
    return Round(
        measured["requests"] / measured["seconds"],
        measured["p50_ms"],
        measured["p99_ms"],
        cpu_s / measured["requests"] * 1e6,
    )


def median(rounds: list[Round]) -> Round:
    columns = zip(*((r.requests_s, r.p50_ms, r.p99_ms, r.cpu_us) for r in rounds), strict=True)
    return Round(*(statistics.median(column) for column in columns))


def measure(floor: Server, tnn: Server, folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    for name, shape in TENSORS.items():
        content, header_bytes = body(shape)
        file = folder / "body"
        file.write_bytes(content)
        for server in (floor, tnn):
            check(server, shape)
            load(server, file, header_bytes, 4, args.seconds)
        for connections in args.connections:
            # The order changes from round to round, and each pair gives a ratio of its own.
            pairs: list[tuple[Round, Round]] = []
            for turn in range(args.rounds):
                order = (floor, tnn) if turn % 2 == 0 else (tnn, floor)
                got = {id(s): load(s, file, header_bytes, connections, args.seconds) for s in order}
                pairs.append((got[id(floor)], got[id(tnn)]))
            ours, theirs = median([pair[1] for pair in pairs]), median([pair[0] for pair in pairs])
            ratio = statistics.median(b.requests_s / a.requests_s for a, b in pairs)
            added = statistics.median(b.cpu_us - a.cpu_us for a, b in pairs)
            yield Row(name, connections, theirs, ours, ratio, added)


def show(rows: list[Row]) -> None:
    table = Table(title="floor / tnn")
    for column in ("tensor", "connections", "requests/s", "p50 ms", "p99 ms", "CPU us", "throughput", "added CPU us"):
        table.add_column(column, justify="right")
    for row in rows:
        a, b = row.floor, row.tnn
        table.add_row(
            row.tensor,
            str(row.connections),
            f"{a.requests_s:,.0f} / {b.requests_s:,.0f}",
            f"{a.p50_ms:.3f} / {b.p50_ms:.3f}",
            f"{a.p99_ms:.2f} / {b.p99_ms:.2f}",
            f"{a.cpu_us:.1f} / {b.cpu_us:.1f}",
            f"{row.throughput_ratio:.1%}",
            f"{row.cpu_added_us:+.1f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="loads of each server for each line (5)")
    parser.add_argument("--seconds", type=float, default=1, help="length of one load (1)")
    parser.add_argument(
        "--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16], help="1,4,16"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory(prefix="floor-") as temporary:
        folder = Path(temporary)
        network = write_network(folder / "network")
        with (
            serve(folder, build_floor(folder), "floor", None) as floor,
            serve(folder, BACKENDS, "tnn", network) as tnn,
        ):
            rows = list(measure(floor, tnn, folder, args))
    show(rows)
    if args.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        args.json.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
