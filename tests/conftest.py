"""What every test may need: the processor's part in it, and marks that follow from what a test uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import Running, skip_unless_installed, start
from tnn_serving.engines.cpu import this_cpu

WITHOUT_VNNI = "the processor, or the limit set for oneDNN, lacks VNNI: fast int8 saturates its 16-bit sums"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "installed" in getattr(item, "fixturenames", ()):
            item.add_marker("server")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_vnni") and not this_cpu().vnni:
        pytest.skip(WITHOUT_VNNI)


@pytest.fixture(scope="session")
def installed() -> None:
    """A server can be started here."""
    skip_unless_installed()


@pytest.fixture
def start_server(installed: None) -> Iterator[Callable[..., Running]]:
    """:func:`start`, for tests that need a server of their own; it is stopped afterwards."""
    started: list[Running] = []

    def make(*arguments: Any, **options: Any) -> Running:
        started.append(start(*arguments, **options))
        return started[-1]

    yield make
    for running in started:
        running.finish()
        running.overlay.close()
