"""Label files from elsewhere, paths in errors, models that come and go: what a caller sees, and what neighbours do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, write_model
from tests.hostile.test_code import assert_neighbour_answers
from tests.servers import Running, wait_for

Start = Callable[..., Running]

LABELLED = """
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, -1, -1, -1 ] label_filename: "labels.txt" } ]
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "a" data_type: TYPE_FP32 dims: [ -1, -1, -1, -1 ] } ]
output [ { name: "b" data_type: TYPE_FP32 dims: [ -1, -1, -1, -1 ] label_filename: "labels.txt" } ]
ensemble_scheduling { step [ { model_name: "labelled" model_version: -1
  input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } } ] }
"""


def write_ensemble(repository: Path, name: str) -> Path:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(ENSEMBLE)
    return repository / name


def classes(running: Running, model: str, name: str, output: str) -> list[str]:
    tensor = tritonclient.http.InferInput(name, [1, 1, 1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([1, 2], np.float32).reshape(1, 1, 1, 2))
    wanted = [tritonclient.http.InferRequestedOutput(output, class_count=2)]
    with running.http() as client:
        return [text.decode() for text in client.infer(model, [tensor], outputs=wanted).as_numpy(output).ravel()]


def test_label_files_from_elsewhere(start_server: Start, tmp_path: Path) -> None:
    """Neither a model's nor an ensemble's, and no huge one; the folder's own are answered with."""
    models = tmp_path / "models"
    (tmp_path / "secret").write_text("secret0\nsecret1\n")
    write_model(models, "relu")
    for model in (write_model(models, "labelled", config=LABELLED), write_ensemble(models, "both")):
        (model / "labels.txt").write_text("cat\ndog\n")
    for model in (write_model(models, "linked", config=LABELLED), write_ensemble(models, "linked_ensemble")):
        (model / "labels.txt").symlink_to(tmp_path / "secret")
    for model in (write_model(models, "huge", config=LABELLED), write_ensemble(models, "huge_ensemble")):
        with (model / "labels.txt").open("wb") as sparse:
            sparse.truncate(1 << 30)
    running = start_server([models])
    assert {model.name for model in running.ready[0] if model.ready} == {"relu", "labelled", "both"}
    assert classes(running, "labelled", "x", "y") == ["2.000000:1:dog", "1.000000:0:cat"]
    assert classes(running, "both", "a", "b") == ["2.000000:1:dog", "1.000000:0:cat"]
    for name, words in {
        "linked": "it is a link out of the model folder",
        "linked_ensemble": "it is a link out of the model folder",
        "huge": "file is too large for a label file",
        "huge_ensemble": "file is too large for a label file",
    }.items():
        assert [text for text in running.warnings if f"{name} is not served: " in text and words in text]
    # The link is put in place of a file that was looked at: the server has a copy.
    (models / "both" / "labels.txt").unlink()
    (models / "both" / "labels.txt").symlink_to(tmp_path / "secret")
    assert classes(running, "both", "a", "b") == ["2.000000:1:dog", "1.000000:0:cat"]
    assert_neighbour_answers(running)


def test_errors_name_files_by_their_place_in_the_repository(start_server: Start, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "relu")
    write_model(models, "broken", proto=BROKEN)
    running = start_server([models], ["--model-control-mode=explicit", "--load-model=relu"])
    for make in (running.http, running.grpc):
        with make() as client, pytest.raises(InferenceServerException) as raised:
            client.load_model("broken")
        assert ", broken/1/proto.tnnproto, " in raised.value.message()
        assert str(tmp_path) not in raised.value.message()
        assert str(running.overlay.locations[0]) not in raised.value.message()
    assert_neighbour_answers(running)


def test_a_model_that_goes_takes_no_other_with_it(start_server: Start, tmp_path: Path) -> None:
    """In poll mode, with models whose folders need no change."""
    models = tmp_path / "models"
    for name in ("relu", "other", "more"):
        write_model(models, name, config='backend: "tnn"\n')
    running = start_server([models], ["--model-control-mode=poll", "--repository-poll-secs=1"])
    with running.http() as client:
        for _ in range(5):
            os.rename(models / "other", tmp_path / "away")
            wait_for(lambda: not client.is_model_ready("other"), "it is gone")
            assert_neighbour_answers(running)
            os.rename(tmp_path / "away", models / "other")
            wait_for(lambda: client.is_model_ready("other"), "it is back")
            assert_neighbour_answers(running)
        for name in ("relu", "more"):
            assert client.is_model_ready(name)
    assert not [line for line in running.log if "failed to poll model repository" in line]
