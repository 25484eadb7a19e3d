"""From a folder to a model that is ready: which batches it takes, what its files may be, what stops a load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import ConfigError, FormatError, LimitError, TnnError
from tnn_serving.formats import tnn
from tnn_serving.graph import Graph
from tnn_serving.prepare import loading
from tnn_serving.prepare.batching import COMPLETED_BATCH_SIZE
from tnn_serving.prepare.loading import Loaded, load_model, open_network
from tnn_serving.prepare.model_version import ModelVersion

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
PIXELS = {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3, -1, -1]}
MIXING = ["Softmax s 1 1 x y 0"]
LITERAL = ["Reshape r 1 1 x a 0 4 2 1 12 0", "Reshape q 1 1 a y 0 4 2 1 12 0"]
"""Writes the batch of 1 down."""


def write(folder: Path, graph: Graph) -> Path:
    version = folder / "1"
    version.mkdir(parents=True)
    ts.write_model(graph, version / "net.tnnproto", version / "net.tnnmodel")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]))


def loaded(folder: Path, config: dict[str, Any] | None = None, *, completes: bool = True, **options: str) -> Loaded:
    """Version 1 of a folder, with backend-wide options."""
    read = ModelConfig.read({"name": "m", **(config or {})})
    return load_model(ModelVersion(folder, read, 1, completes, options))


# ---- batches ----


def test_batches_of_independent_rows_are_completed(folder: Path) -> None:
    made = loaded(folder)
    config = made.configured.config
    assert config.max_batch_size == COMPLETED_BATCH_SIZE
    assert config.dynamic_batching is not None
    assert made.model.analysis.obstacle is None
    assert 1 <= made.joined_rows <= COMPLETED_BATCH_SIZE
    assert made.seconds > 0


@pytest.mark.parametrize(
    "config",
    [
        {"input": [PIXELS]},
        {"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 4, -1, -1]}]},
        {"model_warmup": [{"name": "w", "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [1, 3, 8, 8]}}}]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_tensors_that_are_written_down_say_that_there_is_no_batch(folder: Path, config: dict[str, Any]) -> None:
    made = loaded(folder, config)
    assert made.configured.config.max_batch_size == 0
    assert made.joined_rows == 1


def test_a_batch_size_of_zero_in_the_file_counts(folder: Path) -> None:
    """Triton passes on 0 for a number that is left out too; only the file tells."""
    (folder / "config.pbtxt").write_text("max_batch_size: 0\n")
    assert loaded(folder).configured.config.max_batch_size == 0
    (folder / "config.pbtxt").write_text('backend: "tnn"\n')
    assert loaded(folder).configured.config.max_batch_size == COMPLETED_BATCH_SIZE


def test_nothing_is_completed_where_triton_does_not_allow_it(folder: Path) -> None:
    config = {"input": [PIXELS], "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 4, -1, -1]}]}
    made = loaded(folder, config, completes=False)
    assert made.configured.config.max_batch_size == 0
    with pytest.raises(ConfigError, match="no inputs"):
        loaded(folder, completes=False)


def test_sequences_are_batched_without_dynamic_batching(folder: Path) -> None:
    config = loaded(folder, {"sequence_batching": {"direct": {}}}).configured.config
    assert config.max_batch_size == COMPLETED_BATCH_SIZE
    assert config.dynamic_batching is None


@pytest.mark.parametrize(("asked", "rows"), [("1", 1), ("3", 3), ("4", 4), ("9", 4)])
def test_the_number_of_joined_rows_can_be_set(folder: Path, asked: str, rows: int) -> None:
    made = loaded(folder, {"max_batch_size": 4}, max_joined_rows=asked)
    assert made.joined_rows == rows
    assert made.seconds > 0


def test_rows_that_depend_on_each_other_are_never_joined(tmp_path: Path) -> None:
    folder = write(tmp_path, network({"x": (1, 3, 8, 8)}, MIXING, ["y"]))
    made = loaded(folder)
    assert (made.configured.config.max_batch_size, made.joined_rows) == (0, 1)
    assert "layer 0 `s` (Softmax)" in str(made.model.analysis.obstacle)
    asked = loaded(folder, {"max_batch_size": 4}, max_joined_rows="4")
    assert (asked.configured.config.max_batch_size, asked.joined_rows) == (4, 1)


def test_what_a_trial_shows_counts_more_than_the_analysis(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "check_rows", lambda model, outputs: "rows of output `y` depend on each other")
    made = loaded(folder)
    assert (made.configured.config.max_batch_size, made.joined_rows) == (0, 1)
    asked = loaded(folder, {"max_batch_size": 4}, max_joined_rows="4")
    assert asked.joined_rows == 1
    assert asked.model.analysis.obstacle == "rows of output `y` depend on each other"


def test_a_batch_that_is_written_down_is_made_free_where_there_are_batches(tmp_path: Path) -> None:
    folder = write(tmp_path, network({"x": (1, 12)}, LITERAL, ["y"]))
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    np.testing.assert_array_equal(loaded(folder).model.run({"x": x})["y"], x)
    (folder / "config.pbtxt").write_text("max_batch_size: 0\n")
    with pytest.raises(TnnError):
        loaded(folder).model.run({"x": x})


# ---- files ----


def test_a_network_is_read_from_either_format(folder: Path, tmp_path: Path) -> None:
    assert open_network(folder / "1").outputs == ["y"]
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[n, 4] a) => (float[n, 4] b) { b = Relu (a) }'
    (tmp_path / "2").mkdir()
    onnx.save(parser.parse_model(text), tmp_path / "2" / "model.onnx")
    assert open_network(tmp_path / "2").outputs == ["b"]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        open_network(tmp_path)


def test_files_that_change_while_they_are_read_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tnn.read_model

    def slow(version: Path, model: Path | None, **options: Any) -> Graph:
        graph = real(version, model, **options)
        (version / "net.tnnproto").write_bytes((version / "net.tnnproto").read_bytes() + b"\n")
        return graph

    monkeypatch.setattr(tnn, "read_model", slow)
    with pytest.raises(FormatError, match="changed while they were read"):
        open_network(folder / "1")


def test_files_may_go_after_the_load(folder: Path) -> None:
    """Not even compiling for another shape and other outputs looks at them."""
    made = loaded(folder)
    wanted = ts.load(folder / "1").run({"x": X})["y"]
    for file in (folder / "1").iterdir():
        file.write_bytes(b"")
    np.testing.assert_allclose(made.model.run({"x": X})["y"], wanted, rtol=1e-5, atol=1e-5)
    made.model.warm({"x": (5, 3, 8, 8)})


# ---- limits ----


def test_the_time_for_a_load_is_limited(folder: Path) -> None:
    with pytest.raises(LimitError, match="load_timeout_s"):
        loaded(folder, load_timeout_s="0.0001")


def test_the_memory_of_a_network_is_limited(folder: Path) -> None:
    with pytest.raises(LimitError, match="memory_limit_bytes"):
        loaded(folder, memory_limit_bytes="1000")


def test_the_time_limit_of_a_load_is_none_of_its_requests(folder: Path) -> None:
    assert loaded(folder).model.network.limits.deadline_s == float("inf")
