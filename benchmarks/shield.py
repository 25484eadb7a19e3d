"""The cost of the shield: the same requests to tritonserver directly and through Envoy, in one run.

    python benchmarks/shield.py [--rounds 5] [--connections 1,16] [--others] [--json out.json]

One server runs; all loads go to it in turn, so that disturbances of the machine affect all. Medians over the rounds are
printed, and quotients are medians of quotients of one round. CPU is user and system time per request, of the program in
front and of tritonserver. Load and servers share the cores: read the quotients, not the absolute figures.

--others also measures nginx and HAProxy (Debian: nginx, haproxy) over HTTP. They have fewer duties here: they hold the
request until its body is complete and pass on the documented path, and neither unpack bodies nor look into JSON.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from rich.console import Console

import load
import networks
import tnn_serving as ts
import wire
from machine import turns
from processes import Processes
from results import Result, add_json, integers
from server import TnnServing, check_answer, start_tnn_serving, wait_until
from tnn_serving.triton.background_server import free_ports

TENSORS = {"16 B": (1, 1, 2, 2), "602,112 B": (1, 3, 224, 224)}
REQUESTS = {"16 B": 1500, "602,112 B": 200}
"""Per connection and round, divided by the square root of the number of connections."""
MODEL = "model"
RELU = b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n'

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 10000000;
  client_max_body_size 64m; client_body_buffer_size 1m; proxy_buffers 16 64k; proxy_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream triton {{ server {target}; keepalive 64; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location ~ ^/v2/models/[^/]+(/versions/[0-9]+)?/infer$ {{
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://triton;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  tune.bufsize 1048576
defaults
  mode http
  option http-buffer-request
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
frontend callers
  bind 127.0.0.1:{port}
  http-request deny unless {{ path_reg ^/v2/models/[^/]+(/versions/[0-9]+)?/infer$ }}
  default_backend triton
backend triton
  http-reuse always
  server triton {target}
"""

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Front:
    """A way to the server: its address, and the processes in front of it, if any."""

    address: str
    processes: tuple[psutil.Process, ...] = ()

    def cpu_s(self) -> float:
        """User and system time so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(time.user + time.system for time in times)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one way; ``p50_quotient`` and ``p99_quotient`` are divided by the direct way's."""

    connections: int
    front: str
    front_cpu_us: float
    tritonserver_cpu_us: float
    p50_ms: float
    p99_ms: float
    p50_quotient: float
    p99_quotient: float
    errors: int


def named(processes: Processes, name: str) -> psutil.Process:
    """The one process of that name. By descent: Envoy does not inherit the mark in the environment."""
    descendants = psutil.Process(processes.pid).children(recursive=True)
    (found,) = (process for process in descendants if process.name() == name)
    return found


def ways(server: TnnServing, protocol: wire.Protocol) -> dict[str, Front]:
    """Both ways to the server: past the shield, at the port on its command line, and through it."""
    words = named(server.processes, "tritonserver").cmdline()
    prefix = f"--{protocol}-port="
    port = [word.removeprefix(prefix) for word in words if word.startswith(prefix)][-1]
    public = server.http if protocol == "http" else server.grpc
    return {
        "none": Front(f"127.0.0.1:{port}"),
        "shield": Front(public, (named(server.processes, "envoy"),)),
    }


def others(stack: ExitStack, folder: Path, target: str) -> dict[str, Front]:
    """nginx and HAProxy in front of ``host:port``, those that are installed."""
    found = {}
    for name, configuration, option in (("nginx", NGINX, "-c"), ("haproxy", HAPROXY, "-f")):
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
        if program is None:
            stderr.print(f"{name} is not installed", style="dim")
            continue
        (port,) = free_ports(1)
        file = folder / f"{name}.conf"
        file.write_text(configuration.format(folder=folder, port=port, target=target), encoding="utf-8")
        processes = Processes([program, option, str(file)], folder / f"{name}.out")
        stack.callback(processes.end)
        inputs = {"x": np.ones((1, 1, 2, 2), np.float32)}
        address = f"127.0.0.1:{port}"
        wait_until(partial(wire.answer, "http", address, MODEL, inputs), processes, name)
        # By descent: nginx writes over the environment in which the mark is.
        main = psutil.Process(processes.pid)
        found[name] = Front(address, (main, *main.children(recursive=True)))
    return found


def rows(
    tritonserver: Front,
    fronts: dict[str, Front],
    request: dict[str, load.Request],
    connections: int,
    count: int,
    rounds: int,
) -> list[Row]:
    """One row of each way.

    Args:
        tritonserver: the processes behind all of them.
    """
    found: dict[str, list[tuple[float, float, load.Load]]] = {name: [] for name in fronts}
    for order in turns(list(fronts), rounds):
        for name in order:
            load.count(request[name], connections, 4 * connections)
            before = fronts[name].cpu_s(), tritonserver.cpu_s()
            done = load.count(request[name], connections, count)
            front_us, server_us = (
                (after - first) / count * 1e6
                for after, first in zip((fronts[name].cpu_s(), tritonserver.cpu_s()), before, strict=True)
            )
            found[name].append((front_us, server_us, done))
    direct = [done for *_, done in found["none"]]
    return [
        Row(
            connections,
            name,
            median(front_us for front_us, _, _ in of_one),
            median(server_us for _, server_us, _ in of_one),
            median(done.p50_ms for *_, done in of_one),
            median(done.p99_ms for *_, done in of_one),
            median(done.p50_ms / base.p50_ms for (*_, done), base in zip(of_one, direct, strict=True)),
            median(done.p99_ms / base.p99_ms for (*_, done), base in zip(of_one, direct, strict=True)),
            sum(done.errors for *_, done in of_one),
        )
        for name, of_one in found.items()
    ]


def run(arguments: argparse.Namespace) -> Result:
    """Measures both tensors over both protocols at all numbers of connections."""
    result = Result.of("shield", arguments)
    with tempfile.TemporaryDirectory(prefix="tnn-serving-shield-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        graph = ts.fill_random_weights(ts.read_model(RELU), name="relu")
        networks.write_repository(folder / "models", {MODEL: graph}, {})
        server = start_tnn_serving(
            folder / "models", folder / "log", ["--shield", "always", "--client-rate", "1000000"]
        )
        stack.callback(server.end)
        for protocol in ("http", "grpc"):
            target = server.http if protocol == "http" else server.grpc
            for shape in TENSORS.values():
                inputs = {"x": np.random.default_rng(0).random(shape, np.float32)}
                wait_until(partial(wire.answer, protocol, target, MODEL, inputs), server.processes, "the server")
                check_answer(wire.answer(protocol, target, MODEL, inputs), inputs["x"], "the server")
            fronts = ways(server, protocol)
            tritonserver = Front("", (named(server.processes, "tritonserver"),))
            if protocol == "http" and arguments.others:
                fronts |= others(stack, folder, fronts["none"].address)
            for title, shape in TENSORS.items():
                array = np.random.default_rng(0).random(shape, np.float32)
                requests = {
                    name: wire.request(protocol, front.address, MODEL, {"x": array}) for name, front in fronts.items()
                }
                for connections in arguments.connections:
                    count = round(REQUESTS[title] * connections**0.5)
                    for row in rows(tritonserver, fronts, requests, connections, count, arguments.rounds):
                        result.add(f"{protocol}, tensor of {title}", row)
                stderr.print(f"{protocol}, tensor of {title} done", style="dim")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="loads per way and row")
    parser.add_argument("--connections", type=integers, default=[1, 16])
    parser.add_argument("--others", action="store_true", help="nginx and HAProxy as well")
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
