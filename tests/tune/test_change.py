"""The change of a configuration file by a tuning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune.examples import AFTER, BEFORE, report
from tnn_serving.tune.change import ConfigFile
from tnn_serving.tune.space import Candidate

CHOSEN = Candidate(engine="onnxruntime")


def test_the_models_own_file_or_another_one_in_its_place(tmp_path: Path) -> None:
    own, output = tmp_path / "config.pbtxt", tmp_path / "other.pbtxt"
    own.write_text("# own\n")
    assert ConfigFile.of(own, None) == ConfigFile(own, own)
    assert ConfigFile.of(own, output) == ConfigFile(own, output)
    output.write_text("# other\n")
    assert ConfigFile.of(own, output) == ConfigFile(output, output)
    assert ConfigFile.of(None, None).text() == ""


def test_an_edit_during_the_tuning_is_kept(tmp_path: Path) -> None:
    own = tmp_path / "config.pbtxt"
    own.write_text("max_batch_size: 8\n")
    file = ConfigFile.of(own, None)
    assert file.text() == "max_batch_size: 8\n"
    own.write_text("max_batch_size: 4\n")
    change = file.change(report(BEFORE, AFTER), CHOSEN, force=False)
    assert change
    assert change.before == "max_batch_size: 4\n"
    assert change.after.startswith("max_batch_size: 4\n")
    assert "onnxruntime" in change.added()
    assert "max_batch_size" not in change.added()
    assert change.diff(own).startswith(f"--- {own} (now)")


@pytest.mark.parametrize("text", ["", "max_batch_size: 8\n"])
def test_the_same_tuning_again_changes_nothing(tmp_path: Path, text: str) -> None:
    own = tmp_path / "config.pbtxt"
    own.write_text(text)
    file = ConfigFile.of(own, None)
    own.write_text(file.change(report(BEFORE, AFTER), CHOSEN, force=False).after)
    assert not file.change(report(BEFORE, AFTER), CHOSEN, force=False)
