"""A server for these tests, with models that are fast, slow, or refuse requests when their queue is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.models import write_model
from tnn_serving.triton.background_server import BackgroundServer

DELAY_MS = 20
WAITS = f"max_batch_size: 16\ndynamic_batching {{ max_queue_delay_microseconds: {DELAY_MS * 1000} }}\n"
"""Every request waits this long for others."""

BOUNDED = (
    "max_batch_size: 16\ndynamic_batching { max_queue_delay_microseconds: 20000 "
    "default_queue_policy { max_queue_size: 1 } }\n"
)
"""One request is queued, the others are refused."""


@pytest.fixture(scope="session")
def load_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    for name in ("relu", "counted", "interrupted"):
        write_model(folder, name)
    write_model(folder, "waits", config=WAITS)
    write_model(folder, "bounded", config=BOUNDED)
    return folder


@pytest.fixture(scope="session")
def loaded(installed: None, load_repository: Path) -> Iterator[BackgroundServer]:
    """The server under load."""
    with BackgroundServer(load_repository) as server:
        yield server
