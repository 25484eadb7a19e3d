"""Starts servers on free ports of this machine and waits until they answer."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processes import Processes
from tnn_serving.triton.background_server import free_ports

START_S = 120.0
POLL_S = 0.01
TNN_SERVING = Path(sys.executable).with_name("tnn-serving")


def wait_until(answers: Callable[[], object], processes: Processes, what: str, deadline_s: float = START_S) -> None:
    """Waits until ``answers`` does not raise. After the deadline, raises RuntimeError with the end of the log."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            answers()
            return
        except Exception as error:
            if processes.ended or time.monotonic() > end:
                raise RuntimeError(f"{what} does not answer: {error}\n{processes.last_words()}") from error
        time.sleep(POLL_S)


@dataclass(slots=True)
class TnnServing:
    """A running ``tnn-serving serve``."""

    processes: Processes
    http: str
    grpc: str

    def end(self) -> None:
        """Stops the server."""
        self.processes.end()


def start_tnn_serving(
    repository: Path,
    log: Path,
    flags: Sequence[str] = (),
    *,
    program: Path = TNN_SERVING,
    environment: Mapping[str, str] | None = None,
) -> TnnServing:
    """Starts our server on a repository; returns at once, before it is ready.

    Args:
        program: the command of another version.
        environment: variables in addition to those of this process.
    """
    http, grpc, metrics, health = free_ports(4)
    command = [str(program), "serve", str(repository), "--exit-timeout", "2", "--restarts", "0"]
    # A frozen server must not be restarted as hanging.
    command += ["--hang-timeout", "0", "--health-port", str(health)]
    command += ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics), *flags]
    return TnnServing(Processes(command, log, environment), f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")


def ready(server: TnnServing, model: str) -> None:
    """Raises OSError while the model is not ready."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/{model}/ready", timeout=10):
        pass


def check_answer(got: np.ndarray, want: np.ndarray, server: str) -> None:
    """Raises RuntimeError if a server's answer differs from the engine's by more than float32 rounding."""
    want = want.reshape(-1)
    if got.shape != want.shape or not np.allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max())):
        raise RuntimeError(f"{server}: the answer differs from the engine's: {got[:4]} instead of {want[:4]}")
