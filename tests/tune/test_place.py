"""Which folder and file a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune.examples import write_network
from tnn_serving.errors import ConfigError
from tnn_serving.tune import Place


def test_places(tmp_path: Path) -> None:
    model = write_network(tmp_path / "small")
    assert Place.of(model) == Place(model, model / "config.pbtxt")
    assert Place.of(model / "1") == Place(model / "1", model / "config.pbtxt")
    bare = (model / "1").rename(tmp_path / "bare")
    assert Place.of(bare) == Place(bare, None)
    with pytest.raises(ConfigError, match="no model at"):
        Place.of(tmp_path / "nowhere")
