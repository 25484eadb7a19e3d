"""Three machines on one: servers at 127.0.0.2 to 127.0.0.4, each of which is a `tnn-serving serve` of its own."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.end_to_end.models import write_matrix
from tests.program import command
from tests.servers import DEADLINE_S, wait_for
from tnn_serving.scale.gateway import Servers

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
MODEL = "times"
CHANNELS = 3
DRAIN_S = 4


def free_ports(count: int) -> list[int]:
    """Ports that are free on all machines and on this one. They are below those that the system gives to connections,
    which come and go while a server is started again."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)  # not the same in two workers of a test run
        with ExitStack() as stack, suppress(OSError):
            for host in ("127.0.0.1", *HOSTS):
                stack.enter_context(socket.create_server((host, port)))
            found += {port} - {*found}
    return found


def write_version(repository: Path, version: int) -> None:
    """The model: y = version · x."""
    write_matrix(repository, MODEL, version * np.eye(CHANNELS), version=version)


@dataclass
class Machine:
    """A server; one after another if it is started again."""

    host: str
    servers: Servers
    metrics_port: int
    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Starts the server, and does not wait."""
        words: list[object] = ["serve", self.repository, "--host", self.host, "--cache-dir", self.folder / "cache"]
        words += ["--http-port", self.servers.http_port, "--grpc-port", self.servers.grpc_port]
        words += ["--health-port", self.servers.health_port, "--metrics-port", self.metrics_port]
        words += ["--exit-timeout", 5, "--drain-time", DRAIN_S, "--shield", "always", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command(*words), stdout=log, stderr=log)

    def health(self, path: str) -> int:
        """The status of its health port; 0 without an answer."""
        try:
            url = f"http://{self.host}:{self.servers.health_port}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        assert self.process is not None

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return self.health("/health/ready") == 200

        wait_for(ready, f"{self.host} is ready")

    def processes(self) -> list[psutil.Process]:
        """All of its processes."""
        assert self.process is not None
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def send(self, number: signal.Signals, *, to_all: bool = False) -> None:
        for process in self.processes() if to_all else self.processes()[:1]:
            process.send_signal(number)

    def wait_for_end(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT, to_all=True)
            self.process.kill()
            self.process.wait(DEADLINE_S)
