"""What the end-to-end tests have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.demo import build_demo_models


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `tnn-serving demo` makes, to be copied from."""
    repository = tmp_path_factory.mktemp("demo_models")
    build_demo_models(repository, lambda step: None)
    return repository
