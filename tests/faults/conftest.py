"""What the tests of faults have in common: a server of their own each, and a model whose answers are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from tests.end_to_end.models import times, write_matrix
from tests.servers import Running, ask

EXPLICIT = "--model-control-mode=explicit"
SIZE = 8
MATRIX = np.random.default_rng(0).integers(-9, 10, (SIZE, SIZE)).astype(np.float32)


@dataclass
class Served:
    """A server with one model ``model`` that answers MATRIX · x."""

    running: Running
    repository: Path
    pid: int

    def check(self, client: Any = None) -> None:
        """The same process answers, and rightly."""
        x = np.random.default_rng(1).integers(-9, 10, (1, SIZE, 3, 3)).astype(np.float32)
        if client is None:
            with self.running.http() as client:
                self.check(client)
            return
        y = ask((tritonclient.http, client), "model", x).as_numpy("y")
        np.testing.assert_array_equal(y, times(MATRIX, x))
        assert self.running.supervisor.pid == self.pid

    def logged(self, *words: str) -> bool:
        """Whether a line of the log has all these words."""
        return any(all(word in line for word in words) for line in list(self.running.log))


@pytest.fixture
def serve(start_server: Callable[..., Running], tmp_path: Path) -> Callable[..., Served]:
    """Starts a server on a repository with that model; takes what ``start`` takes."""

    def make(*flags: str, **options: Any) -> Served:
        repository = tmp_path / "models"
        write_matrix(repository, "model", MATRIX)
        running = start_server([repository], [EXPLICIT, "--load-model=*", *flags], **options)
        pid = running.supervisor.pid
        assert pid is not None
        return Served(running, repository, pid)

    return make
