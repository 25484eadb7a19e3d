"""What the end-to-end tests have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.third_party import write_metadata
from tests.engines.third_party.held_engine import GATE_VARIABLE, Gate, HeldEngine
from tests.pages import ROOT
from tnn_serving.demo import build_demo_models


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `tnn-serving demo` makes, to be copied from."""
    repository = tmp_path_factory.mktemp("demo_models")
    build_demo_models(repository, lambda step: None)
    return repository


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """Holds inferences of the engine `held`, which servers that the module starts have."""
    folder = tmp_path_factory.mktemp("gate")
    write_metadata(folder, HeldEngine, HeldEngine.__module__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        patch.setenv(GATE_VARIABLE, str(folder))
        yield Gate(folder)
