"""Regions of shared memory that come and go with a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.client.load.sending import SHAPE, region_files, regions, send
from tests.servers import Running
from tnn_serving.client.load import LoadTarget, Window, measure_load


@pytest.fixture
def no_region_is_left(loaded: Running) -> Iterator[None]:
    yield
    assert regions(loaded, os.getpid()) == region_files(os.getpid()) == []


@pytest.mark.usefixtures("no_region_is_left")
def test_shared_memory_is_there_and_removed(loaded: Running, address: str) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, shared_memory="system") as target:
        with target.loop(2) as loop:
            assert len(regions(loaded, os.getpid())) == len(region_files(os.getpid())) == 3
            send(loop, 4)
        assert regions(loaded, os.getpid()) == []


@pytest.mark.usefixtures("no_region_is_left")
def test_ctrl_c_keeps_what_was_measured(loaded: Running) -> None:
    def interrupt(window: Window) -> None:
        raise KeyboardInterrupt

    with LoadTarget(loaded.address("http"), "relu", shapes=SHAPE, shared_memory="system") as target:
        found = measure_load(target, concurrency=2, window_s=0.1, on_window=interrupt)
    assert found.interrupted
    assert found.requests >= found.windows[0].requests >= 10
