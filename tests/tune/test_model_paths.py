"""Which folder and file a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune.examples import write_network
from tnn_serving.errors import ConfigError
from tnn_serving.tune import ModelPaths


def test_model_paths(tmp_path: Path) -> None:
    model = write_network(tmp_path / "small")
    assert ModelPaths.of(model) == ModelPaths(model, model / "config.pbtxt")
    assert ModelPaths.of(model / "1") == ModelPaths(model / "1", model / "config.pbtxt")
    bare = (model / "1").rename(tmp_path / "bare")
    assert ModelPaths.of(bare) == ModelPaths(bare, None)
    with pytest.raises(ConfigError, match="no model at"):
        ModelPaths.of(tmp_path / "nowhere")
