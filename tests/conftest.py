"""What every test may need: the processor's part in it, and marks that follow from what a test uses."""

from __future__ import annotations

import pytest

from tnn_serving.engines.cpu import this_cpu

WITHOUT_VNNI = "the processor, or the limit set for oneDNN, lacks VNNI: fast int8 saturates its 16-bit sums"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "installed" in getattr(item, "fixturenames", ()):
            item.add_marker("server")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_vnni") and not this_cpu().vnni:
        pytest.skip(WITHOUT_VNNI)
