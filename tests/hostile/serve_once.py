"""Starts ``tnn-serving serve``, asks the model ``relu`` once, and stops: a program for places that a test makes.

    python serve_once.py PORT COMMAND...

Imports nothing of the package, so that what happens is the server's doing. Prints what the server wrote.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

DEADLINE_S = 120


def serve_once(repository: Path) -> list[str]:
    """The command for a repository, on free ports."""
    from tnn_serving.triton.background_server import free_ports

    names = ("http", "grpc", "metrics", "health")
    ports = free_ports(len(names))
    options = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
    server = [str(Path(sys.executable).with_name("tnn-serving")), "serve", str(repository), *options]
    return [sys.executable, __file__, str(ports[0]), *server]


def main(port: str, *command: str) -> None:
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    body = {"inputs": [{"name": "x", "shape": [1, 1, 1, 2], "datatype": "FP32", "data": [-1, 2]}]}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/relu/infer", json.dumps(body).encode())
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            answer = json.load(urllib.request.urlopen(request, timeout=20))
            break
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                sys.exit(f"no answer: {error}\n{server.communicate()[1]}")
            time.sleep(0.1)
    assert answer["outputs"][0]["data"] == [0, 2], answer
    server.send_signal(signal.SIGTERM)
    _, talk = server.communicate(timeout=DEADLINE_S)
    assert server.returncode == 0, talk
    print(talk)


if __name__ == "__main__":
    main(*sys.argv[1:])
